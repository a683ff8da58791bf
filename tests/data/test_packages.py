"""Emoji names and icons, on packages of our own making in the form that the pinned ones have."""

import json
from pathlib import Path

import numpy as np
import pytest
from emoji_packages import COLOURS, _tarball, make_packages
from PIL import Image

from ldm.data.recipes.emoji.icons import IconLibrary, on_background, visible_share
from ldm.data.recipes.emoji.names import EmojiTable

# label, codepoints, group, subgroup, colour of the drawing


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> IconLibrary:
    return IconLibrary(make_packages(tmp_path_factory.mktemp("packages")))


def test_icons_are_found_by_label_and_codepoint(library: IconLibrary) -> None:
    found = {(icon.style, icon.name): icon.concept.slug for icon in library.icons()}
    assert found["noto", "red-apple"] == found["3d", "1f34e"] == "red-apple"
    assert found["twemoji", "minion-food"] == "banana"
    assert set(found.values()) == set(COLOURS)


def test_unknown_hidden_and_filler_icons_are_left_out(library: IconLibrary) -> None:
    names = {icon.name for icon in library.icons()}
    assert not names & {"who-knows", "frog-2", "1f996"}


def test_components_flags_and_the_middle_finger_are_no_concepts(library: IconLibrary) -> None:
    assert {concept.slug for concept in library.table.concepts} == set(COLOURS)


def test_skin_tones_are_one_concept(library: IconLibrary) -> None:
    tones = [icon.tone for icon in library.icons() if icon.concept.slug == "open-hands" and icon.style == "noto"]
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
        if (icon.style, icon.name) != ("outlined", "tooth"):
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
