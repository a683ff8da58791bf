"""`ldm degrade IMAGE... --noise gaussian=25 --jpeg 30`: pictures spoilt in a known way, in the order of the options."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from ldm.degradation.degrade import Degrade
    from ldm.tasks.picture import Picture

_ORDER = "ldm.degradations"
_OPERATIONS = ("noise", "blur", "down", "up", "jpeg", "clip", "round")


class InOrder(TyperCommand):
    """A command that keeps the order of those of its options that are operations, across their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual, and keep texts such as `blur=2` in `ctx.meta`."""
        if not ctx.resilient_parsing:
            values, _, order = self.make_parser(ctx).parse_args(list(args))
            given = {name: iter(values[name] if isinstance(values.get(name), list) else [""]) for name in _OPERATIONS}
            names = [parameter.name for parameter in order if parameter.name in given]
            ctx.meta[_ORDER] = [_text(name, next(given[name], "")) for name in names]
        return super().parse_args(ctx, args)


def _text(name: str, value: str) -> str:
    if name == "noise":
        return value
    return f"{name}={value}" if value else name


def degrade(
    context: typer.Context,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Files, folders or patterns such as '*.png'.")
    ],
    noise: Annotated[
        list[str] | None,
        typer.Option(
            help="gaussian=25 (sd of 255), salt_and_pepper=5% (share), speckle=0.2 (sd), poisson=30 (quanta of white)."
        ),
    ] = None,
    blur: Annotated[list[str] | None, typer.Option(help="Sd in pixels: 2, 3x1 along two axes, 3x1@30 turned.")] = None,
    down: Annotated[
        list[str] | None, typer.Option(help="So many times smaller: 4 by means of blocks, 4:bicubic.")
    ] = None,
    up: Annotated[list[str] | None, typer.Option(help="So many times larger, bicubic.")] = None,
    jpeg: Annotated[list[str] | None, typer.Option(help="A JPEG of this quality, 1 to 100.")] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Clip to black and white at this place. Files always are.")
    ] = False,
    round_: Annotated[bool, typer.Option("--round", help="Round to 8 bits at this place. Files always are.")] = False,
    seed: Annotated[int, typer.Option(help="Of the noise; the same seed and picture give the same bytes.")] = 0,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A .png file, or a folder. [default: outputs]")
    ] = None,
) -> None:
    """Spoil pictures in a known way; operations are applied in the order in which they are given."""
    from ldm.cli.inputs import picture_files
    from ldm.cli.output import Destination
    from ldm.degradation.degrade import Degrade
    from ldm.degradation.operations import NOISES
    from ldm.naming import look_up
    from ldm.tasks.picture import Picture

    for each in noise or []:
        look_up("kind of --noise", each.partition("=")[0].replace("-", "_"), dict.fromkeys(NOISES))
    spoil = Degrade.parse(context.meta[_ORDER], seed)
    if not spoil.operations:
        raise ValueError("nothing to do; give --noise gaussian=25, --blur 2, --down 4, --up 2 or --jpeg 30")
    files = list(dict.fromkeys(file for image in images for file in picture_files(image)))
    destination = Destination(output, several=len(files) > 1, inputs=files)
    for file in files:
        print(destination.save_changed(_degraded(Picture.of(file), spoil), file.stem, "degraded"))


def _degraded(picture: "Picture", spoil: "Degrade") -> bytes:
    """The spoilt picture in its own mode as PNG, with what was done in its text `degradation`."""
    import io

    import numpy as np
    import torch
    from PIL.PngImagePlugin import PngInfo

    from ldm.tasks.picture import image_of

    most = np.iinfo(picture.pixels.dtype).max
    values = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1) / most
    spoilt = spoil(values, key=int(picture.sha256[:12], 16)).clamp(0, 1) * most
    pixels = spoilt.round().permute(1, 2, 0).numpy().astype(picture.pixels.dtype)
    record = {**spoil.record(), "source": Path(picture.path).name, "source_sha256": picture.sha256}
    info = PngInfo()
    info.add_itxt("degradation", json.dumps(record, ensure_ascii=False))
    encoded = io.BytesIO()
    image_of(np.ascontiguousarray(pixels)).save(encoded, "PNG", pnginfo=info)
    return encoded.getvalue()
