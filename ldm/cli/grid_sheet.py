"""One picture of all cells of a grid, with the values of its axes beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_GAP = 4
_LARGEST = 2**27
"""Pixels; a larger sheet is made smaller."""


def grid_sheet(files: Sequence[Path], axes: Sequence[Sequence[str]]) -> "Image":
    """Lay cells out: x to the right, y downwards, and a block for each z below the other.

    Args:
        files: pictures, which may have different sizes, x fastest.
        axes: the labels of x, y and z; an axis that is not there has one empty label.
    """
    from PIL import Image, ImageDraw, ImageFont

    x, y, z = axes
    sizes = []
    for file in files:
        with Image.open(file) as opened:
            sizes.append(opened.size)
    width, height = (max(size[i] for size in sizes) for i in (0, 1))
    shrink = min(1.0, (_LARGEST / (len(files) * width * height)) ** 0.5)
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    font = ImageFont.load_default(max(11, min(width, height) // 16))
    line = round(font.size * 1.5) if hasattr(font, "size") else 16
    head = line if any(x) else 0
    side = min(max((round(font.getlength(label)) for label in y), default=0), width) + 2 * _GAP if any(y) else 0
    title = line if any(z) else 0
    block = title + head + len(y) * (height + _GAP)
    sheet = Image.new("RGB", (side + len(x) * (width + _GAP) - _GAP, len(z) * block - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, file in enumerate(files):
        column, row, level = number % len(x), number // len(x) % len(y), number // (len(x) * len(y))
        left, top = side + column * (width + _GAP), level * block + title + head + row * (height + _GAP)
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if shrink < 1:
            image = image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))))
        sheet.paste(image, (left + (width - image.width) // 2, top + (height - image.height) // 2))
        if row == 0 and head:
            at = left + width // 2, top - head // 2
            draw.text(at, fitting(x[column], width, font.getlength), "black", font, anchor="mm")
        if column == 0 and side:
            at = side - _GAP, top + height // 2
            draw.text(at, fitting(y[row], side - 2 * _GAP, font.getlength), "black", font, anchor="rm")
        if column == row == 0 and title:
            at = sheet.width // 2, level * block + title // 2
            draw.text(at, fitting(z[level], sheet.width, font.getlength), "black", font, anchor="mm")
    return sheet


def fitting(text: str, width: float, length: Callable[[str], float]) -> str:
    """A text, cut so that it is at most so long."""
    if length(text) <= width:
        return text
    while text and length(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..." if text else ""
