"""`ldm edit`, `inpaint`, `outpaint`, `upscale` and `reconstruct` IMAGE PROMPT...: pictures from pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.cli.inputs import picture_files
from ldm.cli.options import JsonOption, OutputOption, QuietOption, with_task_options
from ldm.cli.preview import PreviewOption, Previews, ShowOption
from ldm.cli.quick_import import import_quickly
from ldm.cli.report import Report
from ldm.cli.restore import SHIPPED as SHIPPED_RESTORER
from ldm.cli.restore import CarefulOption, RestorerCall
from ldm.cli.restore import run as run_restorer
from ldm.generation.request import Request
from ldm.generation.setting import check_setting, setting_of
from ldm.tasks.larger import UpscaleSettings
from ldm.tasks.reconstruct_settings import ReconstructSettings
from ldm.tasks.settings import (
    EditSettings,
    Img2ImgSettings,
    InpaintSettings,
    InstructSettings,
    OutpaintSettings,
    WordsSettings,
)

if TYPE_CHECKING:
    from ldm.generation.task import Task
    from ldm.progress import Progress
    from ldm.tasks.restorer import Restored, Restorer


@dataclass(frozen=True)
class Call:
    """What all commands of this file take besides the settings of a request and of their task."""

    image: Annotated[
        str | None,
        typer.Argument(metavar="IMAGE", help="The picture; or a folder or a pattern such as 'in/*.png' of several."),
    ] = None
    output: OutputOption = None
    from_image: Annotated[
        Path | None,
        typer.Option(
            help="Repeat this picture, with its input as IMAGE or where it was then; other options change it."
        ),
    ] = None
    preview: PreviewOption = None
    show: ShowOption = False
    as_json: JsonOption = False
    quiet: QuietOption = False

    @property
    def report(self) -> Report:
        """Says what is finished."""
        return Report(self.as_json, self.quiet)


RESTORER_FACTORS = (2, 4)
_EDITS = {Img2ImgSettings: "img2img", WordsSettings: "edit", InstructSettings: "instruct"}
"""Settings -> the task of `ldm edit` that has them."""


@with_task_options(EditSettings, Call)
def edit(given: dict[str, Any], settings: dict[str, Any], call: Call) -> None:
    """Change a picture by words: as a whole, from what it shows (--source), or by an instruction (--instruct)."""
    by_words = WordsSettings if "source" in settings else Img2ImgSettings
    task = InstructSettings if settings.pop("instruct", False) else by_words
    for each in fields(EditSettings) if call.from_image is None else ():  # else the picture says which edit it was
        if each.name in settings and each.name not in {own.name for own in fields(task)}:
            needed = "--source" if each.name in {own.name for own in fields(WordsSettings)} else "--instruct"
            raise ValueError(f"{setting_of(each).flag} is without effect; give {needed}, too")
    _run(_EDITS[task], given, settings, call)


@with_task_options(InpaintSettings, Call)
def inpaint(given: dict[str, Any], settings: dict[str, Any], call: Call) -> None:
    """Draw a part of a picture anew; every other byte stays."""
    _run("inpaint", given, settings, call)


@with_task_options(OutpaintSettings, Call, without=("width", "height"))
def outpaint(given: dict[str, Any], settings: dict[str, Any], call: Call) -> None:
    """Extend a picture on any sides; its own bytes stay."""
    _run("outpaint", given, settings, call)


@dataclass(frozen=True)
class UpscaleCall(Call):
    """What `ldm upscale` takes besides."""

    careful: CarefulOption = False


@with_task_options(UpscaleSettings, UpscaleCall, without=("width", "height"))
def upscale(given: dict[str, Any], settings: dict[str, Any], call: UpscaleCall) -> None:
    """Enlarge a picture: 2 or 4 times by the restorer, or, with PROMPT or --model, by a model that generates detail."""
    restorer = _restorer(given, settings) if call.image and call.from_image is None else None
    if call.image and restorer:
        enlarge = partial(_enlarged, settings.get("by") or 2, call.careful, settings.get("consistent", False))
        own = RestorerCall(call.image, call.careful, restorer, call.output, call.as_json, call.quiet)
        run_restorer(enlarge, own, "upscaled")
        return
    if call.careful:
        raise ValueError("--careful is the restorer's; leave it out, or leave out what needs another model")
    _run("upscale", given, settings, call, without_words=True)


def _restorer(given: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """The restorer that enlarges: the one that --model names, or the shipped one where only --by is given.

    Raises:
        ValueError: options that a restorer, which --model names, does not have.
    """
    from ldm.io.locate import is_restorer_named
    from ldm.io.shipped import shipped_restorers

    name = given.get("model")
    others = [each for each in (*given, *settings) if each not in ("model", "by", "consistent")]
    if name is None:
        fits = not others and settings.get("by") in (None, *RESTORER_FACTORS)
        return SHIPPED_RESTORER if fits and SHIPPED_RESTORER in shipped_restorers() else None
    if not is_restorer_named(name):
        return None
    if others:
        known = (each for each in (*fields(Request), *fields(UpscaleSettings)) if each.name == others[0])
        flag = "PROMPT" if others[0] == "prompt" else setting_of(next(known)).flag
        raise ValueError(f"{flag} is without effect on the restorer {name}; leave it out")
    return str(name)


def _enlarged(
    by: int, careful: bool, consistent: bool, restorer: "Restorer", file: Path, progress: "Progress"
) -> "Restored":
    return restorer.upscale(file, by, careful, consistent, progress)


_DECIDED = ("width", "height", "sampler", "sampler_options", "schedule", "schedule_options", "upscale")
"""What `ldm reconstruct` decides itself."""


@dataclass(frozen=True)
class ReconstructCall(Call):
    """What `ldm reconstruct` takes besides."""

    samples: Annotated[
        int | None, typer.Option(help="Pictures; of several, also NAME.mean.png and NAME.deviation.png. [default: 1]")
    ] = None


@with_task_options(ReconstructSettings, ReconstructCall, without=(*_DECIDED, "num_images_per_prompt"))
def reconstruct(given: dict[str, Any], settings: dict[str, Any], call: ReconstructCall) -> None:
    """Restore a picture after a damage that is known; PROMPT may say what it shows."""
    from ldm.cli.drawing import LARGEST_SHEET

    if call.samples is not None:
        if not 1 <= call.samples <= LARGEST_SHEET:
            raise ValueError(f"--samples {call.samples} is not possible; use 1 to {LARGEST_SHEET}")
        given["num_images_per_prompt"] = call.samples
    _run("reconstruct", given, settings, call, without_words=True)


def _run(name: str, given: dict[str, Any], settings: dict[str, Any], call: Call, without_words: bool = False) -> None:
    """Do a task with every picture of IMAGE; `without_words` allows an empty prompt."""
    import_quickly("ldm.cli.drawing")
    from ldm.cli.drawing import draw_lines
    from ldm.cli.jobs import Job
    from ldm.cli.output import Destination

    request, content, image, report = Request(), dict(settings), call.image, call.report
    if call.from_image is not None:
        from ldm.generation.from_picture import request_from

        request, unused = request_from(call.from_image)
        for line in unused:
            report.warn(line)
        made_by = request.task.get("name", name)
        if made_by in _EDITS.values() and name == "img2img":
            name = made_by  # without --source and --instruct, the recipe says which edit it was
        if made_by != name:
            raise ValueError(
                f"{call.from_image} was made by another task, {request.task['name']}; use ldm generate for it"
            )
        content = {**{key: value for key, value in request.task.items() if key != "name"}, **content}
        image = image or content.get("picture")
    if not image:
        raise ValueError("IMAGE is missing; name a picture, a folder, or a pattern such as 'in/*.png'")
    request = request.changed({**given, "task": {}})
    if not without_words and not any(prompt.strip() for prompt in request.prompts):
        raise ValueError('PROMPT is missing or empty; say what the picture shall be, e.g. "a green apple, 3d style"')
    request.check(options=True)
    files = picture_files(image)
    jobs = [Job(request, partial(_task, name, content, file), file, name == "reconstruct") for file in files]
    masks = [Path(content[key]) for key in ("mask", "depth") if content.get(key)]
    several = sum(job.count for job in jobs) > 1
    destination = Destination(call.output, several, [*files, *masks])
    with Previews.of(call.preview, call.show, report) as previews:
        draw_lines([line for job in jobs for line in job.lines()], destination, report, previews=previews)


def _task(name: str, content: Mapping[str, Any], file: Path) -> "Task":
    """The task of one picture; a picture that a recipe names must be the one that it was."""
    from ldm.tasks.picture import Picture
    from ldm.tasks.table import TASKS, task_from

    values = dict(content)
    if values.get("picture") != str(file):
        values.pop("picture_sha256", None)
        values["picture"] = str(file)
    for each in fields(TASKS[name]):
        if each.name in values and "setting" in each.metadata:
            check_setting(each, values[each.name], options=True)
    for key in ("picture", "mask", "depth"):
        if values.get(key) and f"{key}_sha256" not in values:
            path = Path(values[key])
            if path.is_dir():  # of a folder of masks, the one that is called as the picture is
                path = next((one for one in picture_files(str(path)) if one.stem == file.stem), path / file.name)
            picture = Picture.of(path)
            values |= {key: str(path), f"{key}_sha256": picture.sha256}
    return task_from({"name": name, **values})
