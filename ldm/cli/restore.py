"""`ldm denoise IMAGE`, `ldm restore IMAGE` and `ldm upscale IMAGE --by 2`: pictures by the restorer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldm.cli.options import JsonOption, OutputOption, QuietOption, with_call

if TYPE_CHECKING:
    from ldm.progress import Progress
    from ldm.tasks.restorer import Restored, Restorer

SHIPPED = "restorer"
CarefulOption = Annotated[
    bool, typer.Option("--careful", help="The mean over all turns and mirror images: a little better, 8 times slower.")
]


@dataclass(frozen=True)
class RestorerCall:
    """What the commands of a restorer take besides what they are to do."""

    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture, a folder, or a pattern such as 'in/*.png'.")]
    careful: CarefulOption = False
    model: Annotated[str, typer.Option(help="restorer, or the folder of a training of one.")] = SHIPPED
    output: OutputOption = None
    as_json: JsonOption = False
    quiet: QuietOption = False


@with_call(RestorerCall)
def denoise(
    noise: Annotated[
        str,
        typer.Option(
            help="gaussian=25 (sd of 255), salt_and_pepper=5%, speckle=0.2 (sd), poisson=30 (quanta of white), a kind "
            "without level, or auto."
        ),
    ] = "auto",
    *,
    call: RestorerCall,
) -> None:
    """Take the noise out of pictures; says what it found."""
    from ldm.degradation.known_damage import parse_damage
    from ldm.degradation.operations import NOISES

    parse_damage(noise, NOISES)  # what is wrong with it is said before a model is loaded
    run(lambda restorer, file, progress: restorer.denoise(file, noise, call.careful, progress), call, "denoised")


@with_call(RestorerCall)
def restore(
    damage: Annotated[
        str,
        typer.Option(
            help="Kinds with or without level, such as jpeg,blur or blur=2,gaussian=5, or auto: noise as `ldm denoise` "
            "has it, jpeg (quality), blur (sd in pixels), resize (how often it was enlarged)."
        ),
    ] = "auto",
    *,
    call: RestorerCall,
) -> None:
    """Take noise, blur, the blocks of JPEGs and the softness of enlarged pictures out; says what it found."""
    from ldm.degradation.known_damage import parse_damage

    parse_damage(damage)  # what is wrong with it is said before a model is loaded
    run(lambda restorer, file, progress: restorer.restore(file, damage, call.careful, progress), call, "restored")


def run(work: "Callable[[Restorer, Path, Progress], Restored]", call: RestorerCall, change: str) -> None:
    """Do something with every picture of IMAGE; those that cannot be used are said at the end, with exit code 5.

    Args:
        work: a restorer, the file and where to report progress -> what became of it.
        call: the command line.
        change: ends the names of files.
    """
    from ldm.cli.errors import INTERRUPTED, PARTLY, describe, say
    from ldm.cli.inputs import picture_files
    from ldm.cli.output import Destination
    from ldm.cli.progress import Bars
    from ldm.cli.report import Report
    from ldm.progress import silent
    from ldm.tasks.restorer import Restorer

    report, files = Report(call.as_json, call.quiet), picture_files(call.image)
    destination = Destination(call.output, several=len(files) > 1, inputs=files)
    restorer = Restorer.from_pretrained(call.model)
    failed: list[str] = []
    finished = 0
    try:
        with Bars(stderr=True) as bars:
            for file in files:
                try:
                    result = work(restorer, file, silent if report.hides_bars else bars)
                except (ValueError, OSError) as error:
                    described = describe(error)
                    # What is wrong with a picture says nothing of the next one.
                    if len(files) < 2 or described is None or str(file) not in str(error):
                        raise
                    failed.append(described[0])
                    continue
                path = destination.save_changed(result.png(), file.stem, change)
                finished += 1
                report.changed(
                    path, {"input": str(file), "changed": result.changed, **result.record}, _in_words(result)
                )
    except KeyboardInterrupt:
        say(f"interrupted: {finished} of {len(files)} pictures are finished, in {destination.folder}")
        raise typer.Exit(INTERRUPTED) from None
    for message in failed:
        say(message)
    if failed:
        say(f"{len(failed)} of {len(files)} pictures could not be used")
        raise typer.Exit(PARTLY)


def _in_words(result: "Restored") -> str:
    """What a person wants to know of a restored picture."""
    from ldm.degradation.known_damage import in_words

    if "by" in result.record:
        return f"{result.record['by']} times larger"
    stated = f"{in_words(result.stated)} was named; " if result.stated else ""
    return f"{stated}found {in_words(result.found)}" + ("" if result.changed else "; nothing was changed")
