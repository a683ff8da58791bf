"""`ldm generate PROMPT...`: pictures from prompts."""

import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.cli.options import JsonOption, OutputOption, QuietOption, help_of, with_request_options
from ldm.cli.preview import PreviewOption, Previews, ShowOption
from ldm.cli.quick_import import import_quickly
from ldm.cli.report import Report
from ldm.generation.request import Request
from ldm.generation.setting import check_setting, setting_of
from ldm.tasks.larger import HiresSettings

_HIRES = {each.name: each for each in fields(HiresSettings)}


def _hires_option(name: str) -> Any:
    setting = setting_of(_HIRES[name])
    return typer.Option(setting.flag, help=help_of(_HIRES[name]), rich_help_panel=setting.group)


if TYPE_CHECKING:
    from ldm.cli.jobs import Line
    from ldm.cli.journal import Journal
    from ldm.cli.output import Destination


@with_request_options
def generate(
    given: dict[str, Any],
    output: OutputOption = None,
    from_image: Annotated[
        Path | None,
        typer.Option(
            help="Repeat this picture, also A1111's, ComfyUI's, InvokeAI's or NovelAI's; other options change it."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file with a prompt, or options as A1111's, on each line; what is finished is passed over when it "
            "is run again. PROMPT - reads prompts from stdin."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Draw also what of --prompts is finished.")] = False,
    preview: PreviewOption = None,
    show: ShowOption = False,
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="Draw every prompt with the same seed, to compare prompts.")
    ] = False,
    gpus: Annotated[
        str | None,
        typer.Option(help="Share pictures among CUDA GPUs, a process each: all, how many, or their numbers as 0,2."),
    ] = None,
    hires: Annotated[float | None, _hires_option("scale")] = None,
    hires_enlarge: Annotated[str | None, _hires_option("enlarge")] = None,
    hires_strength: Annotated[float | None, _hires_option("strength")] = None,
    hires_steps_scale: Annotated[bool, _hires_option("steps_scale")] = False,
    hires_residual: Annotated[bool, _hires_option("residual")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures from words."""
    import_quickly("ldm.cli.drawing")
    from ldm.cli.drawing import draw_lines
    from ldm.cli.journal import Journal
    from ldm.cli.output import Destination
    from ldm.cli.prompt_lines import read_prompt_lines

    report, request = Report(as_json, quiet), Request()
    if from_image is not None:
        from ldm.generation.from_picture import request_from

        request, unused = request_from(from_image)
        for text in unused:
            report.warn(text)
    entries = [] if prompts is None else read_prompt_lines(prompts)
    own = given.pop("prompt", () if entries else request.prompt)
    second = {"scale": hires, "enlarge": hires_enlarge, "strength": hires_strength}
    second |= {"steps_scale": hires_steps_scale or None, "residual": hires_residual or None}
    request = request.changed({**given, "task": _with_hires(request.task, second)})
    texts = _texts(own)
    total = len(texts) * request.num_images_per_prompt
    total += sum(entry.get("num_images_per_prompt", request.num_images_per_prompt) for _, entry in entries)
    destination = Destination(output, several=total > 1)
    journal = Journal(destination.folder) if entries else None
    lines = _plan(request, texts, entries, same_seed, destination, None if again else journal)
    devices = [] if gpus is None else _devices(gpus, request, bool(preview) or show)
    with Previews.of(preview, show, report) as previews:
        draw_lines(lines, destination, report, journal, previews, devices)


def _devices(gpus: str, request: Request, previews: bool) -> list[str]:
    """What `--gpus` names; its processes see one GPU each, and nothing of another's pictures."""
    from ldm.cli.gpus import visible_gpus

    if request.device not in (None, "cuda"):
        raise ValueError(f"--gpus {gpus} and --device {request.device} were given; use one of them")
    if previews:
        raise ValueError(f"--gpus {gpus} has no previews; leave out --preview and --show")
    return visible_gpus(gpus)


def _with_hires(task: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task of a repeated picture, changed by what was given of the second pass, which makes one of none."""
    values = {name: value for name, value in given.items() if value is not None}
    for each in fields(HiresSettings):
        if each.name in values:
            check_setting(each, values[each.name], options=True)
    if not values:
        return task
    if task.get("name", "hires") != "hires":
        raise ValueError(f"--hires does not go with the task of this picture, {task['name']}")
    if not task and "scale" not in values:
        option = setting_of(_HIRES[next(iter(values))]).flag
        raise ValueError(f"{option} is without effect; give --hires 2, too")
    return {**task, "name": "hires", **values}


def _texts(given: str | tuple[str, ...]) -> list[str]:
    """Prompts, with those of stdin in the place of `-`."""
    texts: list[str] = []
    for text in [given] if isinstance(given, str) else given:
        texts += _lines(sys.stdin.read()) if text == "-" else [text]
    return texts


def _plan(
    request: Request,
    texts: list[str],
    entries: list[tuple[str, dict[str, Any]]],
    same_seed: bool,
    destination: "Destination",
    journal: "Journal | None",
) -> "list[Line]":
    """The lines to draw: prompts of the command line, then those of a file.

    Seeds count up over all pictures, except for lines with a seed of their own and with `same_seed`. A line that an
    earlier run began goes on with its seeds.
    """
    from ldm.cli.jobs import Line, check_request, described_task
    from ldm.cli.journal import request_key
    from ldm.generation.first_noise import later, with_seeds

    open_request, request = request, with_seeds(request)
    lines, before, task = [], 0, described_task(request)
    alike: dict[str, int] = {}
    for where, entry in [*(("", {"prompt": text}) for text in texts), *entries]:
        start = 0 if same_seed or "seed" in entry else before
        line = Line(later(with_seeds(request.changed(entry)), start), where, task=task)
        before += 0 if "seed" in entry else line.request.num_images_per_prompt
        if where:
            wanted = open_request.changed(entry)
            key = request_key(wanted, str(start if wanted.seed is not None else ""), destination.file_name)
            alike[key] = alike.get(key, 0) + 1
            key = f"{key}-{alike[key]}"
            seeds = None if journal is None else journal.seeds(key)
            resumed = line.request if seeds is None else replace(line.request, **seeds)
            line = replace(line, request=resumed, key=key, resumed=seeds is not None)
        check_request(line)
        lines.append(line)
    return lines


def _lines(text: str) -> list[str]:
    """Its lines without the empty ones; where there are none, one empty prompt, which is refused as such."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]
