"""Scenes composed from icons: counts, pairs and plain backgrounds, so that their captions are exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from ldm.data.recipes.emoji.captions import CAPTIONS_PER_PICTURE, COUNTS, count_phrase, scene_caption
from ldm.data.recipes.emoji.icons import Icon, IconLibrary, on_background, visible_share
from ldm.data.recipes.emoji.nouns import is_countable, noun, with_article
from ldm.data.recipes.emoji.sources import STYLE_BY_KEY
from ldm.data.recipes.emoji.split import scene_is_held_out

BACKGROUNDS = {
    "white": (255, 255, 255),
    "red": (222, 60, 56),
    "orange": (250, 160, 60),
    "yellow": (250, 222, 90),
    "green": (90, 180, 100),
    "light blue": (160, 212, 245),
    "blue": (50, 100, 200),
    "purple": (140, 90, 190),
    "pink": (248, 170, 200),
    "brown": (135, 90, 60),
    "grey": (150, 150, 155),
    "black": (24, 24, 28),
}
KINDS = {"count": 0.40, "pair": 0.25, "above": 0.15, "background": 0.20}

_GROUPS = {"animals-nature", "food-drink", "activities", "objects"}
_SUBGROUPS = {"transport-ground", "transport-air", "transport-water", "place-building", "heart", "face-costume"}
_LEFT_OUT = {
    "police-car-light", "stop-sign", "motorway", "railway-track", "construction", "horizontal-traffic-light",
    "vertical-traffic-light", "station", "bus-stop", "couch-and-lamp", "goal-net", "peanuts", "footprints",
    "mountain-railway", "suspension-railway", "mountain-cableway", "aerial-tramway", "houses", "wedding", "tokyo-tower",
    "statue-of-liberty", "building-construction", "dvd", "e-mail", "level-slider", "low-battery", "pine-decoration",
    "tanabata-tree", "moon-viewing-ceremony", "cherry-blossom", "leaf-fluttering-in-wind", "bowling", "cricket-game",
    "field-hockey", "ice-hockey", "badminton", "spider-web", "hand-pick", "dragon-face", "cigarette", "drop-of-blood",
}  # fmt: skip
_LEAST_VISIBLE = 0.12
# For each count: centres and box width of the icons, as shares of the picture.
_LAYOUTS: dict[int, list[tuple[tuple[tuple[float, float], ...], float]]] = {
    2: [(((0.27, 0.5), (0.73, 0.5)), 0.42)],
    3: [(((0.5, 0.27), (0.27, 0.72), (0.73, 0.72)), 0.40), (((0.19, 0.5), (0.5, 0.5), (0.81, 0.5)), 0.29)],
    4: [(((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)), 0.41)],
    5: [
        (((0.2, 0.2), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8)), 0.31),
        (((0.19, 0.3), (0.5, 0.3), (0.81, 0.3), (0.345, 0.7), (0.655, 0.7)), 0.28),
    ],
}


@dataclass(frozen=True)
class Scene:
    """One composed picture: its kind, its icons (one, or left and right, or upper and lower), count and background."""

    kind: str
    icons: tuple[Icon, ...]
    count: int
    background: str
    seed: str

    @property
    def held_out(self) -> bool:
        """Whether this object and count, object and background, or pair is never trained on."""
        first = self.icons[0].concept.slug
        if self.kind == "count":
            if scene_is_held_out("count", first, str(self.count)):
                return True
        elif self.kind in ("pair", "above") and scene_is_held_out("pair", first, self.icons[1].concept.slug):
            return True
        return self.background != "white" and any(
            scene_is_held_out("background", icon.concept.slug, self.background) for icon in self.icons
        )


def plan_scenes(icons: Sequence[Icon], number: int, seed: int) -> list[Scene]:
    """Draw `number` scenes from `icons`; concepts come up equally often, whatever the number of their styles."""
    drawings: dict[str, dict[str, Icon]] = {}
    for icon in icons:
        if icon.tone == 0 and suits_scenes(icon):
            drawings.setdefault(icon.concept.slug, {})[icon.style] = icon
    pool = {slug: by_style for slug, by_style in drawings.items() if len(by_style) >= 3}
    if len(pool) < 2:
        raise ValueError(f"{len(pool)} concepts can stand in scenes; need at least 2")
    return [_draw_scene(pool, f"{seed}/scene/{index}") for index in range(number)]


def suits_scenes(icon: Icon) -> bool:
    """Whether the icon is a single thing one can count and put beside another."""
    concept = icon.concept
    if concept.slug in _LEFT_OUT or not (concept.group in _GROUPS or concept.subgroup in _SUBGROUPS):
        return False
    phrase = noun(concept)
    return is_countable(phrase) and len(phrase.split()) <= 3


def compose(scene: Scene, library: IconLibrary, size: int) -> Image.Image | None:
    """Draw the scene as RGB of size x size; None where an object would hardly be seen on its background."""
    rng = Random(scene.seed + "/layout")
    background = _shade(BACKGROUNDS[scene.background], rng) if scene.background != "white" else BACKGROUNDS["white"]
    cutouts = []
    for icon in scene.icons:
        picture = library.render(icon, size)
        box = picture.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
        if box is None or visible_share(on_background(picture.crop(box), background), background) < _LEAST_VISIBLE:
            return None
        cutouts.append(picture.crop(box))
    canvas = Image.new("RGBA", (size, size), (*background, 255))
    for cutout, (x, y, width) in _placements(scene, cutouts, rng):
        _paste(canvas, cutout, x * size, y * size, width * size)
    return canvas.convert("RGB")


def captions(scene: Scene) -> list[str]:
    """The scene's captions, exact in number, place, background and style."""
    rng = Random(scene.seed + "/captions")
    style = STYLE_BY_KEY[scene.icons[0].style]
    return [scene_caption(_sentence(scene, rng), style, rng) for _ in range(CAPTIONS_PER_PICTURE)]


def _draw_scene(pool: Mapping[str, Mapping[str, Icon]], seed: str) -> Scene:
    rng = Random(seed)
    slugs = sorted(pool)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    coloured = kind == "background" or rng.random() < 0.2
    background = rng.choice([name for name in BACKGROUNDS if name != "white"]) if coloured else "white"
    first = rng.choice(slugs)
    if kind in ("pair", "above"):
        second = first
        shared: list[str] = []
        while second == first or not shared:
            second = rng.choice(slugs)
            shared = sorted(pool[first].keys() & pool[second].keys())
        style = rng.choice(shared)
        return Scene(kind, (pool[first][style], pool[second][style]), 2, background, seed)
    count = rng.choice(sorted(COUNTS)) if kind == "count" else 1
    return Scene(kind, (pool[first][rng.choice(sorted(pool[first]))],), count, background, seed)


def _placements(
    scene: Scene, cutouts: Sequence[Image.Image], rng: Random
) -> list[tuple[Image.Image, tuple[float, float, float]]]:
    if scene.kind == "count":
        centres, width = rng.choice(_LAYOUTS[scene.count])
        scale = rng.uniform(0.9, 1.0)
        return [(cutouts[0], (x + _jitter(rng), y + _jitter(rng), width * scale)) for x, y in centres]
    if scene.kind == "background":
        return [(cutouts[0], (0.5 + _jitter(rng), 0.5 + _jitter(rng), rng.uniform(0.78, 0.9)))]
    near, far = 0.255, 0.745
    width = rng.uniform(0.45, 0.48)
    if scene.kind == "pair":
        places = [(near, 0.5 + 2 * _jitter(rng)), (far, 0.5 + 2 * _jitter(rng))]
    else:
        places = [(0.5 + 2 * _jitter(rng), near), (0.5 + 2 * _jitter(rng), far)]
    return [(cutout, (x, y, width)) for cutout, (x, y) in zip(cutouts, places, strict=True)]


def _jitter(rng: Random) -> float:
    return rng.uniform(-0.015, 0.015)


def _paste(canvas: Image.Image, cutout: Image.Image, x: float, y: float, box: float) -> None:
    scale = box / max(cutout.size)
    width, height = (max(1, round(side * scale)) for side in cutout.size)
    small = cutout.resize((width, height), Image.Resampling.LANCZOS)
    left = min(max(round(x - width / 2), 0), canvas.width - width)
    top = min(max(round(y - height / 2), 0), canvas.height - height)
    canvas.alpha_composite(small, (left, top))


def _shade(colour: tuple[int, int, int], rng: Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-8, 8))) for value in colour)
    return red, green, blue


def _sentence(scene: Scene, rng: Random) -> str:
    first = scene.icons[0].concept
    if scene.kind == "count":
        sentence = count_phrase(first, scene.count, rng)
    elif scene.kind == "background":
        sentence = with_article(noun(first))
    else:
        one, other = (with_article(noun(icon.concept)) for icon in scene.icons)
        sentence = _pair_sentence(scene.kind, one, other, rng)
    if scene.background != "white":
        sentence += f" on {with_article(scene.background)} background"
    return sentence


def _pair_sentence(kind: str, one: str, other: str, rng: Random) -> str:
    draw = rng.random()
    if kind == "pair":
        if draw < 0.45:
            return f"{one} left of {other}"
        if draw < 0.70:
            return f"{one} to the left of {other}"
        return f"{other} right of {one}" if draw < 0.90 else f"{one} and {other}"
    if draw < 0.55:
        return f"{one} above {other}"
    return f"{other} below {one}" if draw < 0.85 else f"{one} on top and {other} at the bottom"
