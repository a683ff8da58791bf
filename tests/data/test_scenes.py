"""Composed scenes show what their captions say: as many things, on that side, on that background."""

import re
from collections import Counter

import numpy as np
import pytest
from emoji_packages import COLOURS, make_packages
from PIL import ImageColor
from scipy import ndimage

from ldm.data.recipes.emoji.icons import IconLibrary
from ldm.data.recipes.emoji.nouns import plural
from ldm.data.recipes.emoji.scenes import BACKGROUNDS, KINDS, Scene, captions, compose, plan_scenes, suits_scenes
from ldm.data.recipes.emoji.sources import STYLE_BY_KEY

SIZE = 96
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> IconLibrary:
    return IconLibrary(make_packages(tmp_path_factory.mktemp("packages")))


@pytest.fixture(scope="module")
def scenes(library: IconLibrary) -> list[Scene]:
    return plan_scenes(library.icons(), 1500, seed=0)


def draw(scene: Scene, library: IconLibrary) -> np.ndarray | None:
    picture = compose(scene, library, SIZE)
    return None if picture is None else np.asarray(picture).astype(int)


def place_of(scene: Scene, which: int, pixels: np.ndarray) -> tuple[float, float]:
    """Centre (x, y) of the pixels that have the colour of object `which`."""
    colour = ImageColor.getrgb(COLOURS[scene.icons[which].concept.slug])
    rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=-1) <= 6)
    return float(columns.mean()), float(rows.mean())


def test_as_many_things_are_drawn_as_the_caption_counts(library: IconLibrary, scenes: list[Scene]) -> None:
    counted = Counter()
    for scene in [scene for scene in scenes if scene.kind == "count"][:60]:
        pixels = draw(scene, library)
        if pixels is None:
            continue
        things = ndimage.binary_fill_holes(np.abs(pixels - pixels[0, 0]).max(axis=-1) > 12)
        # The cores of discs that touch stay apart.
        assert ndimage.label(ndimage.binary_erosion(things, iterations=4))[1] == scene.count
        many = plural(scene.icons[0].concept.label)
        for caption in captions(scene):
            assert f"{NUMBERS[scene.count]} {many}" in caption or f"{scene.count} {many}" in caption
        counted[scene.count] += 1
    assert sorted(counted) == [2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["pair", "above"])
def test_left_is_left_and_above_is_above(library: IconLibrary, scenes: list[Scene], kind: str) -> None:
    said = set()
    for scene in [scene for scene in scenes if scene.kind == kind and scene.background == "white"][:40]:
        pixels = draw(scene, library)
        assert pixels is not None
        places = [place_of(scene, which, pixels) for which in (0, 1)]
        names = [icon.concept.label for icon in scene.icons]
        for caption in captions(scene):
            first, second = sorted((0, 1), key=lambda which: caption.index(names[which]))
            relation = re.search(r"(left|right) of|above|below|on top and|\band\b", caption).group()  # type: ignore[union-attr]
            (x1, y1), (x2, y2) = places[first], places[second]
            true = {
                "left of": x1 < x2 - SIZE / 3,
                "right of": x1 > x2 + SIZE / 3,
                "and": abs(y1 - y2) < SIZE / 10,
                "above": y1 < y2 - SIZE / 3,
                "below": y1 > y2 + SIZE / 3,
                "on top and": y1 < y2 - SIZE / 3,
            }
            assert true[relation], caption
            said.add(relation)
    assert said == ({"left of", "right of", "and"} if kind == "pair" else {"above", "below", "on top and"})


def test_background_is_the_one_in_the_caption(library: IconLibrary, scenes: list[Scene]) -> None:
    seen = set()
    for scene in scenes[:250]:
        pixels = draw(scene, library)
        if pixels is None:
            continue
        distances = {name: np.abs(pixels[0, 0] - colour).max() for name, colour in BACKGROUNDS.items()}
        assert distances[scene.background] == min(distances.values()) <= 8
        for caption in captions(scene):
            named = re.findall(r"on an? ([a-z ]+) background", caption)
            assert named == ([] if scene.background == "white" else [scene.background])
        seen.add(scene.background)
    assert seen == set(BACKGROUNDS)


def test_things_that_would_hardly_show_are_not_drawn(library: IconLibrary) -> None:
    hammer = next(icon for icon in library.icons() if icon.concept.slug == "hammer")
    assert compose(Scene("background", (hammer,), 1, "grey", "seed"), library, SIZE) is None
    assert compose(Scene("background", (hammer,), 1, "blue", "seed"), library, SIZE) is not None


def test_same_scene_is_the_same_picture_and_captions(library: IconLibrary, scenes: list[Scene]) -> None:
    again = plan_scenes(library.icons(), 20, seed=0)
    assert again == scenes[:20]
    assert plan_scenes(library.icons(), 20, seed=1) != again
    first, second = (compose(scene, library, SIZE) for scene in (scenes[0], again[0]))
    assert first is not None and second is not None and first.tobytes() == second.tobytes()
    assert captions(scenes[0]) == captions(again[0])


def test_kinds_come_in_their_shares_and_styles_match(scenes: list[Scene]) -> None:
    kinds = Counter(scene.kind for scene in scenes)
    assert all(abs(kinds[kind] / len(scenes) - share) < 0.04 for kind, share in KINDS.items())
    for scene in scenes[:100]:
        assert len({icon.style for icon in scene.icons}) == 1
        style = STYLE_BY_KEY[scene.icons[0].style]
        assert any(caption.endswith(f", {style.phrase}") or style.picture in caption for caption in captions(scene))


def test_only_single_countable_things_are_in_scenes(library: IconLibrary) -> None:
    suiting = {icon.concept.slug for icon in library.icons() if suits_scenes(icon)}
    assert suiting == {"red-apple", "banana", "eggplant", "frog", "dove", "hammer", "candle"}


def keys(scene: Scene) -> set[tuple[str, ...]]:
    """The (object, count), (object, background) and ordered pairs of a scene."""
    names = [icon.concept.slug for icon in scene.icons]
    found = {("background", name, scene.background) for name in names if scene.background != "white"}
    if scene.kind == "count":
        found.add(("count", names[0], str(scene.count)))
    if len(names) == 2:
        found.add(("pair", *names))
    return found


def test_no_held_out_pair_is_in_any_trained_scene(scenes: list[Scene]) -> None:
    trained = {key for scene in scenes if not scene.held_out for key in keys(scene)}
    held_out = [scene for scene in scenes if scene.held_out]
    assert 0.05 < len(held_out) / len(scenes) < 0.35
    assert all(keys(scene) - trained for scene in held_out)
    assert {kind for scene in held_out for kind, *_ in keys(scene) - trained} == {"count", "background", "pair"}


def test_who_is_held_out_does_not_depend_on_the_seed(library: IconLibrary, scenes: list[Scene]) -> None:
    others = plan_scenes(library.icons(), 1500, seed=7)
    trained = {key for scene in scenes if not scene.held_out for key in keys(scene)}
    assert all(keys(scene) - trained for scene in others if scene.held_out)


def test_one_thing_alone_makes_no_scenes(library: IconLibrary) -> None:
    icons = [icon for icon in library.icons() if icon.concept.slug == "banana"]
    with pytest.raises(ValueError, match="1 concepts can stand in scenes; need at least 2"):
        plan_scenes(icons, 1, seed=0)


def test_icons_that_are_not_given_are_not_composed(library: IconLibrary) -> None:
    given = [icon for icon in library.icons() if (icon.concept.slug, icon.style) != ("frog", "noto")]
    used = {(icon.concept.slug, icon.style) for scene in plan_scenes(given, 300, seed=0) for icon in scene.icons}
    assert ("frog", "noto") not in used and ("frog", "flat") in used
