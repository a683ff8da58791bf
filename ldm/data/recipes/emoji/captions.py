"""Captions: what a picture is called, in the proportions that the model is to learn."""

from collections.abc import Sequence
from random import Random

from ldm.data.recipes.emoji.names import TONES, Concept
from ldm.data.recipes.emoji.nouns import described, is_plural, noun, plural, toned, with_article
from ldm.data.recipes.emoji.sources import Style

CAPTIONS_PER_PICTURE = 8
COLOUR_SHARE = 0.25
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}

_HYPERNYM_SHARE = 0.08
_KEYWORD_SHARE = 0.07
_SYNONYM_SHARE = 0.35

_HYPERNYMS = {
    "animal-mammal": "animal",
    "animal-bird": "bird",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "insect",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "food",
    "food-asian": "Asian food",
    "food-sweet": "sweet food",
    "drink": "drink",
    "place-building": "building",
    "place-religious": "building",
    "transport-water": "boat",
    "sport": "sport",
    "clothing": "clothing",
    "musical-instrument": "musical instrument",
    "tool": "tool",
    "writing": "writing tool",
    "face-smiling": "happy face",
    "face-affection": "loving face",
    "face-tongue": "funny face",
    "face-unwell": "sick face",
    "face-sleepy": "sleepy face",
    "face-concerned": "sad face",
    "face-negative": "angry face",
    "cat-face": "cat face",
    "zodiac": "zodiac sign",
    "arrow": "arrow",
}
_NOT_OF_THEIR_SUBGROUP = {
    "paw-prints", "pig-nose", "feather", "wing", "empty-nest", "nest-with-eggs", "spider-web", "microbe",
    "spiral-shell", "rosette", "anchor", "ring-buoy", "goal-net", "flag-in-hole", "skull", "skull-and-crossbones",
    "ring", "gem-stone", "lipstick", "hair-pick", "folding-hand-fan", "prayer-beads", "ice", "building-construction",
    "brick", "rock", "wood", "kaaba", "coral", "snail", "worm", "smiling-face-with-horns", "love-you-gesture",
    "chains", "magnet", "white-cane", "link", "broken-chain",
}  # fmt: skip
_SYNONYMS = {
    "automobile": "automobile", "lady-beetle": "ladybug", "honeybee": "bee", "airplane": "plane", "bicycle": "bike",
    "mobile-phone": "phone", "doughnut": "donut", "hamburger": "burger", "rabbit": "bunny",
    "rabbit-face": "bunny face", "fire-engine": "fire truck", "motor-scooter": "scooter", "t-shirt": "shirt",
    "television": "TV", "laptop": "computer", "evergreen-tree": "pine tree", "high-voltage": "lightning",
    "flying-saucer": "UFO", "wrapped-gift": "gift", "soccer-ball": "football", "sailboat": "sailing boat",
    "passenger-ship": "cruise ship", "cat-face": "cat head", "dog-face": "dog head", "birthday-cake": "cake",
    "soft-ice-cream": "ice cream cone", "hot-beverage": "coffee", "jack-o-lantern": "halloween pumpkin",
    "snake": "serpent", "sauropod": "long-necked dinosaur", "t-rex": "dinosaur", "red-apple": "apple",
    "eggplant": "aubergine", "french-fries": "fries", "ear-of-corn": "corn", "hot-pepper": "chili pepper",
    "pile-of-poo": "poop", "wastebasket": "trash can", "gem-stone": "diamond",
    "magnifying-glass-tilted-left": "magnifying glass", "magnifying-glass-tilted-right": "magnifying glass",
    "person-running": "runner", "police-car-light": "siren", "deciduous-tree": "tree", "hourglass-done": "hourglass",
    "wine-glass": "glass of red wine", "beer-mug": "beer", "moon-cake": "mooncake", "hot-dog": "hotdog",
    "bullseye": "dartboard", "wrench": "spanner", "baby-chick": "chick", "collision": "explosion",
    "loudly-crying-face": "sobbing face", "face-with-tears-of-joy": "laughing face",
    "smiling-face-with-heart-eyes": "face with heart eyes", "grinning-face": "happy face", "red-heart": "heart",
    "umbrella-with-rain-drops": "umbrella in the rain", "ringed-planet": "planet Saturn", "racing-car": "race car",
    "locomotive": "steam train", "crescent-moon": "moon", "carousel-horse": "merry-go-round horse",
    "goal-net": "goal", "delivery-truck": "truck", "kick-scooter": "scooter", "spouting-whale": "whale",
    "tropical-fish": "colorful fish",
}  # fmt: skip


def keywords(concepts: Sequence[Concept]) -> dict[str, list[str]]:
    """Better keywords of each concept by slug: single words, shared by few concepts, that its noun does not have."""
    uses: dict[str, int] = {}
    for concept in concepts:
        for tag in concept.tags:
            uses[tag] = uses.get(tag, 0) + 1
    eligible = {"animals-nature", "food-drink", "travel-places", "activities", "objects"}
    return {
        concept.slug: [
            tag
            for tag in concept.tags
            if tag.isalpha() and len(tag) > 3 and uses[tag] <= 3 and tag.lower() not in noun(concept).lower()
        ]
        if concept.group in eligible
        else []
        for concept in concepts
    }


def vocabulary(concepts: Sequence[Concept]) -> list[str]:
    """Every noun and keyword of the table, sorted: words that a text tower should know though few have a picture."""
    return sorted({word for concept in concepts for word in (noun(concept), *concept.tags)})


def icon_captions(
    concept: Concept, style: Style, tone: int, colours: Sequence[str], words: Sequence[str], rng: Random
) -> list[str]:
    """Captions of one icon.

    Args:
        concept: what it shows.
        style: the icon style.
        tone: skin tone, 0 for none.
        colours: its main colours, largest first; not used on people.
        words: keywords that may follow the noun.
        rng: draws everything.
    """
    return [_icon_caption(concept, style, tone, colours, words, rng) for _ in range(CAPTIONS_PER_PICTURE)]


def _icon_caption(
    concept: Concept, style: Style, tone: int, colours: Sequence[str], words: Sequence[str], rng: Random
) -> str:
    phrase = noun(concept)
    if concept.slug in _SYNONYMS and rng.random() < _SYNONYM_SHARE:
        phrase = _SYNONYMS[concept.slug]
    article, bare = with_article(phrase), phrase
    if tone:
        if rng.random() < 0.75:
            article, bare = with_article(toned(phrase, tone)), toned(phrase, tone)
        else:
            article, bare = f"{article}, {TONES[tone]} skin tone", toned(phrase, tone)
    elif _colourable(concept, phrase) and colours and rng.random() < COLOUR_SHARE:
        adjective = " and ".join(colours) if len(colours) == 2 and rng.random() < 0.4 else colours[0]
        article, bare = described(adjective, phrase), f"{adjective} {phrase}"
    extra = ""
    hypernym = _HYPERNYMS.get(concept.subgroup)
    if hypernym and concept.slug not in _NOT_OF_THEIR_SUBGROUP and rng.random() < _HYPERNYM_SHARE:
        extra = f", {hypernym}"
    elif words and rng.random() < _KEYWORD_SHARE:
        extra = f", {rng.choice(words)}"
    return _place(article, bare, extra, style, rng)


def scene_caption(article: str, style: Style, rng: Random) -> str:
    """One caption of a composed scene whose content `article` says exactly, nine of ten with its style."""
    draw = rng.random()
    if draw < 0.65:
        return f"{article}, {style.phrase}"
    if draw < 0.90:
        return f"{with_article(style.picture)} of {article}"
    return article


def count_phrase(concept: Concept, count: int, rng: Random) -> str:
    """A count with its noun: "three bananas", sometimes "3 bananas"."""
    number = COUNTS[count] if rng.random() < 0.85 else str(count)
    return f"{number} {plural(noun(concept))}"


def _place(article: str, bare: str, extra: str, style: Style, rng: Random) -> str:
    draw = rng.random()
    if draw < 0.54:
        return f"{article}{extra}, {style.phrase}"
    if draw < 0.72:
        return f"{bare} emoji{extra}, {style.phrase}"
    if draw < 0.90:
        return f"{with_article(style.picture)} of {article}{extra}"
    if draw < 0.94:
        return f"{article}{extra}"
    if draw < 0.97:
        return f"{bare} emoji{extra}"
    return f"{bare}{extra}" if is_plural(bare) or rng.random() < 0.5 else f"an icon of {article}{extra}"


_COLOUR_WORDS = {
    "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "grey", "black", "white",
    "rainbow", "dark",
}  # fmt: skip


def _colourable(concept: Concept, phrase: str) -> bool:
    if concept.is_person or concept.subgroup in {"alphanum", "keycap", "time", "geometric", "heart"}:
        return False
    return not _COLOUR_WORDS & set(phrase.lower().split()) and phrase.split()[0] not in {
        "two",
        "Mount",
        "Tokyo",
        "Statue",
    }
