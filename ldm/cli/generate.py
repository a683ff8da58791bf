"""`ldm generate PROMPT...`: pictures from prompts."""

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ldm.cli.options import with_request_options
from ldm.cli.report import Report
from ldm.generation.request import Request, check_setting, setting_of
from ldm.tasks.larger import HiresSettings

_HIRES = {each.name: setting_of(each) for each in fields(HiresSettings)}


def _hires_option(name: str) -> Any:
    setting = _HIRES[name]
    return typer.Option(setting.flag, help=setting.help, rich_help_panel=setting.group)


@with_request_options
def generate(
    given: dict[str, Any],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A folder, or a .png file. [default: outputs]")
    ] = None,
    from_image: Annotated[
        Path | None,
        typer.Option(
            help="Repeat this picture, also A1111's, ComfyUI's, InvokeAI's or NovelAI's; other options change it."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with a prompt on each line; PROMPT - reads them from stdin.")
    ] = None,
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="Draw every prompt with the same seed, to compare prompts.")
    ] = False,
    hires: Annotated[float | None, _hires_option("scale")] = None,
    hires_strength: Annotated[float | None, _hires_option("strength")] = None,
    hires_steps_scale: Annotated[bool, _hires_option("steps_scale")] = False,
    hires_residual: Annotated[bool, _hires_option("residual")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Draw pictures from words."""
    from ldm.cli.drawing import Job, draw_all
    from ldm.cli.output import Destination

    report, request = Report(as_json, quiet), Request()
    if from_image is not None:
        from ldm.generation.from_picture import request_from

        request, unused = request_from(from_image)
        for line in unused:
            report.warn(line)
    second = {"scale": hires, "strength": hires_strength}
    second |= {"steps_scale": hires_steps_scale or None, "residual": hires_residual or None}
    request = request.changed({**_with_lines(given, prompts), "task": _with_hires(request.task, second)})
    _check_prompts(request)
    request.check(options=True)
    total = len(request.prompts) * request.num_images_per_prompt
    draw_all([Job.of(request)], Destination(output, several=total > 1), report, same_seed)


def _with_hires(task: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task of a repeated picture, changed by what was given of the second pass, which makes one of none."""
    values = {name: value for name, value in given.items() if value is not None}
    for each in fields(HiresSettings):
        if each.name in values:
            check_setting(each, values[each.name], options=True)
    if not values:
        return task
    if task.get("name", "hires") != "hires":
        raise ValueError(f"{_HIRES['scale'].flag} does not go with the task of this picture, {task['name']}")
    if not task and "scale" not in values:
        option = _HIRES[next(iter(values))].flag
        raise ValueError(f"{option} is without effect; give {_HIRES['scale'].flag} 2, too")
    return {**task, "name": "hires", **values}


def _with_lines(given: dict[str, Any], prompts: Path | None) -> dict[str, Any]:
    """What was given, with the prompts of stdin in the place of `-`, and then those of a file."""
    own = given.get("prompt", ())
    texts: list[str] = []
    for text in [own] if isinstance(own, str) else own:
        texts += _lines(sys.stdin.read()) if text == "-" else [text]
    if prompts is not None:
        try:
            texts += _lines(prompts.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"--prompts {prompts} is not valid UTF-8; save it as UTF-8") from None
    if not texts:
        return given
    return {**given, "prompt": texts[0] if len(texts) == 1 else tuple(texts)}


def _lines(text: str) -> list[str]:
    """Its lines without the empty ones; where there are none, one empty prompt, which is refused as such."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def _check_prompts(request: Request) -> None:
    for prompt in request.prompts:
        if not prompt.strip():
            raise ValueError('PROMPT is missing or empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')
