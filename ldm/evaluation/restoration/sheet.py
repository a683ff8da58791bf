"""A sheet of pictures: a row for each damage with the damaged picture, every method's and the truth."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP, _LINE = 4, 14


def write_sheet(path: Path, rows: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]]) -> None:
    """Write titles and labelled pictures (3, H, W) in [0, 1], all of one size, as PNG."""
    edge_y, edge_x = rows[0][1][0][1].shape[1:]
    columns = max(len(pictures) for _, pictures in rows)
    height = edge_y + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * (edge_x + _GAP), len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (title, pictures) in enumerate(rows):
        top = number * height
        draw.text((0, top), title, "black", font)
        for column, (label, picture) in enumerate(pictures):
            left = column * (edge_x + _GAP)
            draw.text((left, top + _LINE), label[:24], "black", font)
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (left, top + 2 * _LINE))
    sheet.save(path)
