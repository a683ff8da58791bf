"""The icons of all packages as RGBA pictures."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data.recipes.emoji.names import Concept, EmojiTable, read_member
from ldm.data.recipes.emoji.sources import EMOJIBASE, STYLE_BY_KEY, STYLES


@dataclass(frozen=True)
class Icon:
    """One drawing: style key, the name it has in its package, what it shows and in which skin tone (0 for none)."""

    style: str
    name: str
    concept: Concept
    tone: int


class IconLibrary:
    """All pinned packages opened: lists their icons and renders them.

    Args:
        tarballs: path of each package's tarball by package name, as `ldm.data.recipes.npm_packages.fetch` returns it.
    """

    def __init__(self, tarballs: Mapping[str, Path]) -> None:
        self._tarballs = tarballs
        self._sets: dict[str, dict] = {}
        self._webp: dict[str, bytes] = {}

    @cached_property
    def table(self) -> EmojiTable:
        """Names, groups and keywords."""
        return EmojiTable(self._tarballs[EMOJIBASE.name])

    def icons(self) -> list[Icon]:
        """Every icon whose meaning is known, in a fixed order.

        3d pictures whose concept the flat Fluent set lacks are left out: these are other vendors' fillers.
        """
        found: list[Icon] = []
        for style in STYLES:
            if style.key != "3d":
                with tarfile.open(self._tarballs[style.package.name]) as archive:
                    chars = read_member(archive, "package/chars.json")
                entries = self.table.icons(self._icon_set(style.key), chars)
                found += [Icon(style.key, name, entry.concept, entry.tone) for name, entry in entries]
        fluent = {icon.concept.slug for icon in found if icon.style == "flat"}
        for name in sorted(self._pictures_3d()):
            entry = self.table.by_codepoint(name)
            if entry and entry.concept.slug in fluent:
                found.append(Icon("3d", name, entry.concept, entry.tone))
        return found

    def render(self, icon: Icon, size: int) -> Image.Image:
        """The icon as RGBA picture of size x size."""
        if icon.style == "3d":
            picture = Image.open(io.BytesIO(self._pictures_3d()[icon.name])).convert("RGBA")
        else:
            picture = _render_svg(self._icon_set(icon.style), icon.name, size)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        return picture

    def _icon_set(self, style: str) -> dict:
        if style not in self._sets:
            with tarfile.open(self._tarballs[STYLE_BY_KEY[style].package.name]) as archive:
                self._sets[style] = read_member(archive, "package/icons.json")
        return self._sets[style]

    def _pictures_3d(self) -> dict[str, bytes]:
        if not self._webp:
            with tarfile.open(self._tarballs[STYLE_BY_KEY["3d"].package.name]) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.endswith(".webp") else None
                    if content is not None:
                        self._webp[Path(member.name).stem] = content.read()
        return self._webp


def _render_svg(icon_set: dict, name: str, size: int) -> Image.Image:
    import resvg_py

    icon = icon_set["icons"][name]
    defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
    left, top, width, height = (icon.get(key, icon_set.get(key, value)) for key, value in defaults.items())
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{size}" height="{size}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True, dpi=96)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def on_background(icon: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The RGBA picture over a plain background, as RGB."""
    canvas = Image.new("RGBA", icon.size, (*background, 255))
    canvas.alpha_composite(icon)
    return canvas.convert("RGB")


def visible_share(picture: Image.Image, background: tuple[int, int, int]) -> float:
    """Share of the RGB picture's pixels that differ clearly (by more than 24 of 255) from the background."""
    difference = np.abs(np.asarray(picture, dtype=np.int16) - np.array(background, dtype=np.int16)).max(axis=-1)
    return float((difference > 24).mean())
