"""Sheets of previews: each picture with its caption below and the real picture beside, and a page of all sheets."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

_LINE = 14
_LETTER = 6  # of Pillow's own font, in pixels


def picture_grid(tiles: Tensor) -> Tensor:
    """Lay pictures (N, 3, H, W) in [0, 1] out in a nearly square grid, (rows H, columns W, 3) uint8."""
    columns = max(1, round(len(tiles) ** 0.5))
    rows = -(-len(tiles) // columns)
    padded = torch.ones(rows * columns, *tiles.shape[1:])
    padded[: len(tiles)] = tiles.detach().float().cpu().clamp(0, 1)
    grid = padded.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return (grid * 255).round().to(torch.uint8)


def sheet(tiles: Tensor, captions: Sequence[str] = (), real: Tensor | None = None) -> Image.Image:
    """A grid of pictures with their captions.

    Args:
        tiles: (N, 3, H, W) in [0, 1].
        captions: one per picture, cut to its width; none at all leaves no room for them.
        real: the real pictures, of the same shape, which are shown beside; white where there is none.
    """
    if real is not None and real.shape == tiles.shape:
        tiles = torch.cat([tiles, real.to(tiles)], dim=3)
    if not captions:
        return Image.fromarray(picture_grid(tiles).numpy())
    height, width = tiles.shape[2:]
    room = torch.ones(len(tiles), 3, _LINE, width)
    grid = Image.fromarray(picture_grid(torch.cat([tiles.detach().float().cpu(), room], dim=2)).numpy())
    columns, draw = grid.width // width, ImageDraw.Draw(grid)
    for number, caption in enumerate(captions):
        row, column = divmod(number, columns)
        shown = caption.encode("latin-1", "replace").decode("latin-1")[: max(width // _LETTER, 1)]
        draw.text((column * width + 2, (row + 1) * (height + _LINE) - _LINE + 1), shown, fill="black")
    return grid


def page(folder: Path) -> str:
    """An HTML page of all sheets in a folder, the newest first, each kind in a column of its own."""
    files = sorted(folder.glob("*-*.png"))
    kinds = sorted({file.stem.rpartition("-")[0] for file in files})
    times = sorted({file.stem.rpartition("-")[2] for file in files if file.stem.rpartition("-")[2].isdecimal()})
    rows = []
    for time in reversed(times):
        names = [f"{kind}-{time}.png" for kind in kinds]
        there = [f'<img src="{escape(name)}">' if (folder / name).is_file() else "" for name in names]
        cells = "".join(f"<td>{each}</td>" for each in there)
        rows.append(f"<tr><th>{int(time):,} samples</th>{cells}</tr>")
    style = "<style>img{max-width:45vw}th{vertical-align:top}</style>"
    return f"<!doctype html><meta charset=utf-8><title>previews</title>{style}<table>{''.join(rows)}</table>\n"
