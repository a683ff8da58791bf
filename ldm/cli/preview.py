"""Previews of pictures that are being drawn: as files that are replaced, and in the terminal."""

import re
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self, TextIO

import typer

from ldm.cli.terminal_picture import picture_text, protocol_of
from ldm.generation.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.cli.progress import StepBar
    from ldm.cli.report import Report
    from ldm.generation.draw import DrawStep
    from ldm.pipeline.pipeline import LatentDiffusion


PreviewOption = Annotated[
    str | None, typer.Option(metavar="every=N", help="Every N steps write NAME.preview.png, and --show it.")
]
ShowOption = Annotated[bool, typer.Option("--show", help="Show pictures in the terminal.")]


class Previews:
    """Writes `NAME.preview.png` every few steps, which end with the block, and shows pictures in a terminal.

    Args:
        every: so many steps; None is no preview.
        show: put previews and finished pictures into the terminal that stdout, or else stderr, is.
    """

    def __init__(self, every: int | None, show: bool) -> None:
        self._every = every
        self._stream: TextIO = sys.stdout
        self._protocol: str | None = None
        if show:
            self._stream, self._protocol = _terminal()
        self._written: set[Path] = set()

    @classmethod
    def of(cls, preview: str | None, show: bool, report: "Report") -> Self:
        """What the options say, `every=5` or `5`; a report of JSON or of nothing hides what is shown.

        Raises:
            ValueError: another PREVIEW.
        """
        found = re.fullmatch(r"(?:every=)?([1-9]\d{0,4})", "1" if preview is None else preview)
        if found is None:
            raise ValueError(f"--preview {preview} is not possible; write --preview every=5")
        return cls(None if preview is None else int(found[1]), show and not report.hides_bars)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for path in self._written:
            path.unlink(missing_ok=True)

    def step(
        self, step: "DrawStep", model: "LatentDiffusion", request: Request, place: "Destination", bar: "StepBar"
    ) -> None:
        """A step was done: every few, except for the last, write and show what the pictures will be like."""
        if self._every is None or (step.index + 1) % self._every or step.index + 1 >= step.total:
            return
        from ldm.generation.first_noise import later
        from ldm.generation.result import in_form
        from ldm.io.disk.files import write_file
        from ldm.io.metadata.png import png_bytes

        factor = model.parts.latent_format.factor
        size = step.x.shape[-1] * factor, step.x.shape[-2] * factor
        images: list[Image] = in_form(step.preview, "pil")
        for row, image in zip(step.rows, images, strict=True):
            seed = later(request, row).seed
            path = place.preview(request.prompts[row], seed or 0)
            self._written.add(path)
            write_file(path, png_bytes(image.resize(size)))
            self._show(image.resize(size), bar)

    def finished(self, image: "Image", bar: "StepBar") -> None:
        """A picture is whole; the previews of this drawing have served."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()
        self._show(image, bar)

    def _show(self, image: "Image", bar: "StepBar") -> None:
        if self._protocol is not None:
            bar.above(self._stream, picture_text(image, self._protocol))


def _terminal() -> tuple[TextIO, str | None]:
    """The stream that is a terminal which can show pictures, and how."""
    streams = [(stream, protocol_of(stream)) for stream in (sys.stdout, sys.stderr)]
    return next((each for each in streams if each[1] is not None), streams[0])
