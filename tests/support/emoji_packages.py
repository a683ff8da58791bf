"""The packages of the emoji recipe in small, as npm would fetch them."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from ldm.data.recipes.emoji.names import slug
from ldm.data.recipes.emoji.sources import EMOJIBASE, STYLES
from ldm.data.sources.webdataset import encode_json

GROUPS = {"0": "people-body", "1": "animals-nature", "2": "food-drink", "3": "objects", "4": "component", "5": "flags"}


SUBGROUPS = {
    **{"0": "hands", "1": "person-activity", "2": "body-parts", "3": "animal-bird", "4": "animal-mammal"},
    **{"5": "food-fruit", "6": "food-vegetable", "7": "tool", "8": "light-video", "9": "skin-tone"},
    **{"10": "country-flag"},
}


THINGS = [
    ("red apple", "1F34E", 2, 5, "#d62828"),
    ("banana", "1F34C", 2, 5, "#fcd53f"),
    ("eggplant", "1F346", 2, 6, "#8246b4"),
    ("frog", "1F438", 1, 4, "#3ca046"),
    ("dove", "1F54A", 1, 3, "#1e5ac8"),
    ("hammer", "1F528", 3, 7, "#8c8c91"),
    ("candle", "1F56F", 3, 8, "#f58220"),
    ("tooth", "1F9B7", 0, 2, "#82c8f5"),
    ("open hands", "1F450", 0, 0, "#c08040"),
    ("person getting massage", "1F486", 0, 1, "#905030"),
    ("man getting massage", "1F486-200D-2642-FE0F", 0, 1, "#904030"),
    ("woman getting massage", "1F486-200D-2640-FE0F", 0, 1, "#903030"),
]


TONED = {"open hands": "1F3FB 1F3FC 1F3FD 1F3FE 1F3FF"}


TONE_WORDS = ("light", "medium-light", "medium", "medium-dark", "dark")


LEFT_OUT = [
    ("light skin tone", "1F3FB", 4, 9),
    ("flag: Norway", "1F1F3-1F1F4", 5, 10),
    ("middle finger", "1F595", 0, 0),
]


COLOURS = {slug(label): colour for label, _, _, _, colour in THINGS}


def make_packages(folder: Path) -> dict[str, Path]:
    """Tarballs by package name: every thing is a disc of its colour with a stripe that differs between styles."""
    entries = []
    for order, (label, code, group, subgroup, *_) in enumerate([*THINGS, *LEFT_OUT]):
        entry = {
            "label": label,
            "hexcode": code,
            "group": group,
            "subgroup": subgroup,
            "order": order,
            "tags": ["sign"],
        }
        if label in TONED:
            entry["skins"] = [
                {"label": f"{label}: {word} skin tone", "hexcode": f"{code}-{tone}", "tone": number}
                for number, (word, tone) in enumerate(zip(TONE_WORDS, TONED[label].split(), strict=True), 1)
            ]
        entries.append(entry)
    table = {
        "en/data.json": encode_json(entries),  # type: ignore[arg-type]
        "meta/groups.json": encode_json({"groups": GROUPS, "subgroups": SUBGROUPS}),
    }
    paths = {EMOJIBASE.name: _tarball(folder / EMOJIBASE.file_name, table)}
    for number, style in enumerate(STYLES):
        members = _webp_members() if style.key == "3d" else _icon_set_members(style.package.name.split("/")[1], number)
        paths[style.package.name] = _tarball(folder / style.package.file_name, members)
    return paths


def _icon_set_members(prefix: str, number: int) -> dict[str, bytes]:
    icons, chars = {}, {}
    for label, code, *_, colour in THINGS:
        name = slug(label)
        if prefix == "streamline-emojis" and name == "tooth":
            colour = "#fdfdfd"  # cannot be seen on white
        if prefix == "twemoji" and name == "banana":
            name, chars[code.lower()] = "minion-food", "minion-food"
        icons[name] = {"body": _disc(colour, number)}
        for word in TONE_WORDS if label in TONED else ():
            icons[f"{name}-{word}-skin-tone"] = {"body": _disc(colour, number + 9)}
    icons["who-knows"] = {"body": _disc("#000000", 0)}
    icons["frog-2"] = {"body": _disc("#000000", 0), "hidden": True}
    icon_set = {"prefix": prefix, "width": 32, "height": 32, "icons": icons}
    return {"icons.json": encode_json(icon_set), "chars.json": encode_json(chars)}


def _disc(colour: str, style: int) -> str:
    stripe = f'<rect x="{8 + style}" y="14" width="1" height="4" fill="#fff"/>'
    return f'<circle cx="16" cy="16" r="12" fill="{colour}"/>{stripe}'


def _webp_members() -> dict[str, bytes]:
    members = {}
    for _, code, *_, colour in [*THINGS, ("only in 3d", "1F996", 1, 4, "#00ff00")]:
        picture = Image.new("RGBA", (32, 32))
        picture.paste(colour, (4, 4, 28, 28))
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", lossless=True)
        members[f"assets/{code.lower().replace('-fe0f', '')}.webp"] = encoded.getvalue()
    return members


def _tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
