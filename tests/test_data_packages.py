"""Emoji names and icons, on packages of our own making in the form that the pinned ones have."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.recipes.emoji.icons import IconLibrary, on_background, visible_share
from ldm.data.recipes.emoji.names import EmojiTable, slug
from ldm.data.recipes.emoji.sources import EMOJIBASE, STYLES
from ldm.data.sources.webdataset import encode_json

GROUPS = {"0": "people-body", "1": "animals-nature", "2": "food-drink", "3": "objects", "4": "component", "5": "flags"}
SUBGROUPS = {
    **{"0": "hand-single-finger", "1": "person-activity", "2": "body-parts", "3": "animal-bird", "4": "animal-mammal"},
    **{"5": "food-fruit", "6": "food-vegetable", "7": "tool", "8": "light-video", "9": "skin-tone"},
    **{"10": "country-flag"},
}
# label, codepoints, group, subgroup, colour of the drawing
THINGS = [
    ("red apple", "1F34E", 2, 5, "#d62828"),
    ("banana", "1F34C", 2, 5, "#fcd53f"),
    ("eggplant", "1F346", 2, 6, "#8246b4"),
    ("frog", "1F438", 1, 4, "#3ca046"),
    ("dove", "1F54A", 1, 3, "#1e5ac8"),
    ("hammer", "1F528", 3, 7, "#8c8c91"),
    ("candle", "1F56F", 3, 8, "#f58220"),
    ("tooth", "1F9B7", 0, 2, "#82c8f5"),
    ("index pointing up", "261D", 0, 0, "#c08040"),
    ("person getting massage", "1F486", 0, 1, "#905030"),
    ("man getting massage", "1F486-200D-2642-FE0F", 0, 1, "#904030"),
    ("woman getting massage", "1F486-200D-2640-FE0F", 0, 1, "#903030"),
]
TONED = {"index pointing up": "1F3FB 1F3FC 1F3FD 1F3FE 1F3FF"}
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
        "meta/unicode-names.json": encode_json({"1F9B7": "molar"}),
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
        if prefix == "fxemoji":
            name = name.replace("-", "")
        if prefix == "emojione" and name == "tooth":
            colour = "#fdfdfd"  # cannot be seen on white
        if prefix == "twemoji" and name == "banana":
            name, chars[code.lower()] = "minion-food", "minion-food"
        icons[name] = {"body": _disc(colour, number)}
        for word in TONE_WORDS if label in TONED and prefix != "fxemoji" else ():
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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> IconLibrary:
    return IconLibrary(make_packages(tmp_path_factory.mktemp("packages")))


def test_icons_are_found_by_label_codepoint_and_squashed_name(library: IconLibrary) -> None:
    found = {(icon.style, icon.name): icon.concept.slug for icon in library.icons()}
    assert found["noto", "red-apple"] == found["firefox", "redapple"] == found["3d", "1f34e"] == "red-apple"
    assert found["twemoji", "minion-food"] == "banana"
    assert set(found.values()) == set(COLOURS)


def test_unknown_hidden_and_filler_icons_are_left_out(library: IconLibrary) -> None:
    names = {icon.name for icon in library.icons()}
    assert not names & {"who-knows", "frog-2", "1f996"}


def test_components_flags_and_the_middle_finger_are_no_concepts(library: IconLibrary) -> None:
    assert {concept.slug for concept in library.table.concepts} == set(COLOURS)


def test_skin_tones_are_one_concept(library: IconLibrary) -> None:
    tones = [icon.tone for icon in library.icons() if icon.concept.slug == "index-pointing-up" and icon.style == "noto"]
    assert sorted(tones) == [0, 1, 2, 3, 4, 5]


def test_men_and_women_share_their_family_with_the_person(library: IconLibrary) -> None:
    families = {concept.family for concept in library.table.concepts if concept.slug.endswith("getting-massage")}
    assert families == {"getting-massage"}
    assert next(concept for concept in library.table.concepts if concept.slug == "banana").family == "banana"


def test_every_icon_is_drawn_in_its_colour_on_nothing(library: IconLibrary) -> None:
    for icon in library.icons():
        pixels = np.asarray(library.render(icon, 40))
        assert pixels.shape == (40, 40, 4)
        assert pixels[0, 0, 3] == 0
        if (icon.style, icon.name) != ("emojione", "tooth"):
            red, green, blue = (int(COLOURS[icon.concept.slug][i : i + 2], 16) for i in (1, 3, 5))
            assert np.abs(pixels[12, 20].astype(int) - (red, green, blue, 255)).max() <= 2, icon


def test_visible_share_is_the_share_of_clearly_other_pixels() -> None:
    icon = Image.new("RGBA", (10, 10))
    icon.paste((0, 0, 0, 255), (0, 0, 5, 5))
    icon.paste((240, 240, 240, 255), (5, 5, 10, 10))
    assert visible_share(on_background(icon, (255, 255, 255)), (255, 255, 255)) == 0.25


def test_package_without_its_table_is_named(tmp_path: Path) -> None:
    tarball = _tarball(tmp_path / "emojibase-data-17.0.0.tgz", {"package.json": json.dumps({}).encode()})
    with pytest.raises(ValueError, match=r"emojibase-data-17.0.0.tgz' has no package/en/data.json; delete it"):
        EmojiTable(tarball)
