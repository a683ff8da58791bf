"""The prompts of an evaluation: sampled by seed from the captions of a data set."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ldm.evaluation.judge.expected import PLAIN_BACKGROUND, Expected

PARTS = ("seen", "held_out", "composed_seen", "composed_held_out")
Meta = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One prompt with what its picture should show.

    Attributes:
        text: the prompt.
        expected: what the judge should find.
        split: of the real picture that the prompt describes: 0 is the training split, 1 the held-out one.
        index: of that picture in its split.
    """

    text: str
    expected: Expected
    split: int
    index: int


def choose_prompts(
    splits: Sequence[Sequence[Meta]], n: int, seed: int, style_words: Mapping[str, Sequence[str]]
) -> dict[str, list[Prompt]]:
    """At most `n` prompts for each of `PARTS`; a part without any is left out.

    `seen` are (concept, style) cells that were trained on, `held_out` cells that were not; the composed parts are
    evenly many counts, backgrounds and pairs that were and were not. A prompt of a held-out part is dropped if the
    training split shows the same cell or combination all the same.

    Args:
        splits: json of the training split's pictures and, where there are any, of the held-out ones'.
        n: prompts of each part.
        seed: draws pictures and captions.
        style_words: by style, phrases one of which a caption must contain, so that the style can be judged; a style
            that is not here takes any caption.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n} prompts are not enough; use 1 or more")
    metas = {name: split for name, split in zip(("train", "held_out"), splits, strict=False)}
    trained = {combination for meta in metas["train"] for combination in combinations(meta)}
    chosen: dict[str, list[Prompt]] = {}
    for part in PARTS:
        number = 1 if part.endswith("held_out") else 0
        if number >= len(splits):
            continue
        random = Random(f"{seed}/{part}")
        ids = _scenes(splits[number], random) if part.startswith("composed") else _cells(splits[number], random)
        prompts = []
        for index in ids:
            meta = splits[number][index]
            if number == 1 and combinations(meta) <= trained:
                continue
            text = _caption(meta, style_words.get(meta.get("style", ""), ()), random)
            if text is not None:
                prompts.append(Prompt(text, Expected.of(meta), number, index))
            if len(prompts) == n:
                break
        if prompts:
            chosen[part] = prompts
    return chosen


def combinations(meta: Meta) -> set[tuple[str, ...]]:
    """The combinations of a picture that can be held out: an icon's cell; a scene's count, background and pair."""
    if "objects" not in meta:
        return {("cell", meta["concept"], meta.get("style", ""))}
    objects = tuple(meta["objects"])
    found: set[tuple[str, ...]] = set()
    if meta["kind"] == "count":
        found.add(("count", objects[0], str(meta["count"])))
    if len(objects) == 2:
        found.add(("pair", *objects))
    if meta["background"] != PLAIN_BACKGROUND:
        found |= {("background", name, meta["background"]) for name in objects}
    return found


def names_things(data_folder: Path | str) -> bool:
    """Whether this is a data set of `ldm data build`, finished or not: its json names what each picture shows."""
    return any((Path(data_folder) / name).is_file() for name in ("manifest.json", "build.json"))


def load_manifest(data_folder: Path) -> dict[str, Any]:
    """The manifest of the data set.

    Raises:
        FileNotFoundError: its build was not finished.
    """
    path = data_folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; finish `ldm data build`, or name another folder")
    return json.loads(path.read_text())


def style_words(manifest: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """By style, the words for it in captions; empty where the data set names no styles."""
    return {style["key"]: (style["phrase"], style["picture"]) for style in manifest.get("styles", [])}


def _cells(metas: Sequence[Meta], random: Random) -> Iterator[int]:
    """One icon of every cell in random order: without a skin tone if it can be."""
    icons = [index for index, meta in enumerate(metas) if "objects" not in meta]
    random.shuffle(icons)
    cells: dict[tuple[str, str], int] = {}
    for index in sorted(icons, key=lambda i: metas[i].get("tone", 0) > 0):  # stable: the draw decides among equals
        cells.setdefault((metas[index]["concept"], metas[index].get("style", "")), index)
    return iter(cells.values())


def _scenes(metas: Sequence[Meta], random: Random) -> Iterator[int]:
    """Scenes in random order, the kinds in turn."""
    kinds: dict[str, list[int]] = {}
    for index, meta in enumerate(metas):
        if "objects" in meta:
            kinds.setdefault("pair" if len(meta["objects"]) == 2 else meta["kind"], []).append(index)
    queues = [kinds[kind] for kind in sorted(kinds)]
    for queue in queues:
        random.shuffle(queue)
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def _caption(meta: Meta, words: Sequence[str], random: Random) -> str | None:
    fitting = [text for text in meta["captions"] if not words or any(word in text for word in words)]
    return random.choice(fitting) if fitting else None
