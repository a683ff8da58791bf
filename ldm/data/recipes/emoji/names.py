"""Which concept an icon shows: the emoji table, and the ways the packages name their icons."""

import json
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}

_DROPPED_GROUPS = {"component"}
_DROPPED_SUBGROUPS = {"country-flag", "subdivision-flag", "alphanum"}
_DROPPED_CONCEPTS = {"middle-finger", "part-alternation-mark", "wavy-dash"}
_SQUARES_OF_A_SIZE = re.compile(r"(black|white)-(medium|medium-small|small)-square")

# Older names of concepts, where a package predates the table's label.
_RENAMED = {
    "dizzy-face": "face-with-crossed-out-eyes",
    "direct-hit": "bullseye",
    "directhit": "bullseye",
    "exclamation-mark": "red-exclamation-mark",
    "question-mark": "red-question-mark",
    "hugging-face": "smiling-face-with-open-hands",
    "pouting-face": "enraged-face",
    "crazy-face": "zany-face",
    "champagne-glass": "clinking-glasses",
    "red-wine-glass": "wine-glass",
    "school-backpack": "backpack",
    "game-dice": "game-die",
    "man-and-woman-holding-hands": "woman-and-man-holding-hands",
    "two-men-holding-hands": "men-holding-hands",
    "two-women-holding-hands": "women-holding-hands",
    "bride-with-veil": "person-with-veil",
    "gesturing-ok": "person-gesturing-ok",
    "2hearts": "two-hearts",
    "arrowrightwardsdownwards": "right-arrow-curving-down",
    "arrowrightwardsupwards": "right-arrow-curving-up",
    "bunny": "rabbit-face",
    "bunnyside": "rabbit",
    "catside": "cat",
    "dogside": "dog",
    "dragonside": "dragon",
    "dragonhead": "dragon-face",
    "cowface": "cow-face",
    "horseface": "horse-face",
    "chilipepper": "hot-pepper",
    "cellphone": "mobile-phone",
    "hampster": "hamster",
    "brokenheart": "broken-heart",
    "heartblue": "blue-heart",
    "heartgreen": "green-heart",
    "heartpurple": "purple-heart",
    "heartyellow": "yellow-heart",
    "hearteyes": "smiling-face-with-heart-eyes",
    "jackolantern": "jack-o-lantern",
    "fireworksparkler": "sparkler",
    "izakayalantern": "red-paper-lantern",
    "hocho": "kitchen-knife",
    "pills": "pill",
    "gem": "gem-stone",
    "golfer": "person-golfing",
    "graduationcap": "graduation-cap",
    "electrictorch": "flashlight",
    "clap": "clapping-hands",
    "compression": "clamp",
    "beachumbrella": "beach-with-umbrella",
    "aubergine": "eggplant",
    "flexbicep": "flexed-biceps",
    "evergreen": "evergreen-tree",
    "fireengine": "fire-engine",
    "darksunglasses": "sunglasses",
    "daggerknife": "dagger",
}


@dataclass(frozen=True)
class Concept:
    """One entry of the emoji table, its skin tones and spellings taken together.

    Attributes:
        slug: key, for example "red-apple".
        label: the table's English label.
        group: "food-drink" and so on.
        subgroup: "food-fruit" and so on.
        tags: the table's keywords.
        order: place in the table.
    """

    slug: str
    label: str
    group: str
    subgroup: str
    tags: tuple[str, ...]
    order: int

    @property
    def is_person(self) -> bool:
        """Whether people or parts of them are to be seen: no colour words for these."""
        return self.group == "people-body" or self.subgroup == "person"

    @property
    def family(self) -> str:
        """The slug without the words for the person's gender: siblings share it."""
        words = [word for word in self.slug.split("-") if word not in _GENDERED]
        return "-".join(words) if self.group == "people-body" and words else self.slug


_GENDERED = {"man", "woman", "person", "men", "women", "people", "boy", "girl", "adult", "child", "old", "older"}


@dataclass(frozen=True)
class Entry:
    """The meaning of an icon's name: the concept and the skin tone, 0 for none."""

    concept: Concept
    tone: int


def slug(label: str) -> str:
    """`label` as icon names spell it: lower case ASCII words joined by hyphens."""
    plain = label.lower().replace("’", "").replace("'", "").replace("&", " and ")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")


class EmojiTable:
    """The emojibase table with look-up by label, codepoint and older names.

    Two-tone couples, the group `component`, country flags, buttons that are mere text, the middle finger and squares
    that differ only in size are left out.
    """

    def __init__(self, tarball: Path) -> None:
        with tarfile.open(tarball) as archive:
            entries = read_member(archive, "package/en/data.json")
            groups = read_member(archive, "package/meta/groups.json")
        self._by_slug: dict[str, Entry] = {}
        self._by_codepoint: dict[str, Entry] = {}
        for raw in entries:
            concept = _concept(raw, groups)
            if concept is None:
                continue
            for variant in [raw, *raw.get("skins", [])]:
                tone = variant.get("tone", 0)
                if isinstance(tone, int):
                    entry = Entry(concept, tone)
                    self._by_slug[concept.slug if variant is raw else slug(variant["label"])] = entry
                    self._by_codepoint[_plain_codepoint(variant["hexcode"])] = entry
        self.concepts = sorted({entry.concept for entry in self._by_slug.values()}, key=lambda concept: concept.slug)

    def by_codepoint(self, code: str) -> Entry | None:
        """The entry of hyphenated hexadecimal codepoints; variation selectors do not matter."""
        return self._by_codepoint.get(_plain_codepoint(code))

    def by_name(self, name: str) -> Entry | None:
        """The entry that an icon's name means, or None."""
        for candidate in _spellings(name):
            found = self._by_slug.get(candidate)
            if found:
                return found
        toned = re.fullmatch(r"(.+)-(light|medium-light|medium|medium-dark|dark)-skin-tone", name)
        if toned:
            base = self.by_name(toned[1])
            tone = next(number for number, word in TONES.items() if word == toned[2])
            return Entry(base.concept, tone) if base and base.tone == 0 else None
        return None

    def icons(self, icon_set: Mapping, chars: Mapping[str, str]) -> Iterator[tuple[str, Entry]]:
        """Names of an Iconify set's visible icons with what they stand for; unknown ones are left out."""
        codepoints: dict[str, list[str]] = {}
        for code, name in chars.items():
            codepoints.setdefault(name, []).append(code)
        older: dict[str, list[str]] = {}
        for name, alias in icon_set.get("aliases", {}).items():
            if set(alias) == {"parent"}:
                older.setdefault(alias["parent"], []).append(name)
        for name in sorted(icon_set["icons"]):
            if icon_set["icons"][name].get("hidden"):
                continue
            found = self._by_slug.get(name)
            found = found or next(filter(None, map(self.by_codepoint, codepoints.get(name, []))), None)
            found = found or next(filter(None, map(self._by_slug.get, sorted(older.get(name, [])))), None)
            found = found or self.by_name(name)
            if found:
                yield name, found


def _spellings(name: str) -> list[str]:
    numberless = re.sub(r"-\d$", "", name)
    spellings = [_RENAMED.get(name, name), _RENAMED.get(numberless, numberless)]
    spellings.append(numberless.replace("cat-face", "cat"))
    spellings.append(numberless.removesuffix("-face"))
    return spellings


def _concept(raw: Mapping, groups: Mapping) -> Concept | None:
    if "group" not in raw:
        return None
    group = groups["groups"][str(raw["group"])]
    subgroup = groups["subgroups"][str(raw["subgroup"])]
    key = slug(raw["label"])
    if group in _DROPPED_GROUPS or subgroup in _DROPPED_SUBGROUPS or key in _DROPPED_CONCEPTS:
        return None
    if _SQUARES_OF_A_SIZE.fullmatch(key):
        return None
    if key == "keycap":  # "#" and "*" leave nothing in a slug
        key = slug(f"keycap {unicodedata.name(raw['label'][-1])}")
    return Concept(key, raw["label"], group, subgroup, tuple(raw.get("tags", ())), raw["order"])


def _plain_codepoint(code: str) -> str:
    parts = re.split(r"[-_]", code.lower())
    return "-".join(part.lstrip("0") for part in parts if part != "fe0f")


def read_member(archive: tarfile.TarFile, name: str) -> Any:
    """The json file `name` of a package.

    Raises:
        ValueError: the package has no such file.
    """
    try:
        member = archive.extractfile(name)
    except KeyError:
        member = None
    if member is None:
        raise ValueError(f"{archive.name!r} has no {name}; delete it and fetch it again")
    return json.load(member)
