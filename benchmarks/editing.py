"""How well words edit pictures: `python benchmarks/editing.py runs/data/emoji --n 40`.

A model draws pictures of prompts of a data set. Each is edited towards the caption of another picture that differs in
the style, in the thing, or in the colour of its background, by every method at its own strength. The data set's judge
says whether the edit shows what was requested. What the walk says it left alone is compared with the input before any
byte is put back (difference editing with `local`).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ldm import LatentDiffusion
from ldm.evaluation.judge.classifier import Judge, Verdict
from ldm.evaluation.judge.expected import Expected
from ldm.evaluation.judge.prompts import load_manifest, style_words
from ldm.evaluation.judge.train import JudgeConfig, load_splits, trained_judge
from ldm.evaluation.metrics.estimate import Rate
from ldm.evaluation.resizing import resize
from ldm.tasks.edit_by_words import EditByWords
from ldm.tasks.img2img import Img2Img
from ldm.tasks.picture import Picture

METHODS: dict[str, dict[str, Any]] = {
    "difference": {"strength": 0.7},
    "ddpm": {"strength": 0.8},
    "ddim": {"strength": 0.8},
    "img2img": {"strength": 0.7},
}
LOCAL = 0.9


@dataclass(frozen=True)
class Change:
    """A prompt, another one, and what the judge should find after the edit."""

    kind: str
    source: str
    target: str
    expected: Expected


def changes(metas: list[dict[str, Any]], words: dict[str, tuple[str, ...]], n: int, seed: int) -> Iterator[Change]:
    """At most n changes of each kind between pictures of the training split."""
    random = Random(seed)
    by_concept, by_style, by_scene = defaultdict(list), defaultdict(list), defaultdict(list)
    for meta in metas:
        if "objects" not in meta and not meta.get("tone"):
            by_concept[meta["concept"]].append(meta)
            by_style[meta["style"]].append(meta)
        elif meta.get("kind") == "background":
            by_scene[(*meta["objects"], meta.get("style"))].append(meta)
    for kind, groups, differs in (
        ("style", by_concept, "style"),
        ("noun", by_style, "concept"),
        ("colour", by_scene, "background"),
    ):
        found = 0
        names = sorted(groups, key=str)
        random.shuffle(names)
        for name in (name for _ in range(n) for name in names):
            one, other = (random.choice(groups[name]) for _ in range(2))
            captions = [_caption(meta, words) for meta in (one, other)]
            if one[differs] == other[differs] or None in captions:
                continue
            yield Change(kind, *captions, Expected.of(other))  # type: ignore[misc]
            found += 1
            if found == n:
                break


def _caption(meta: dict[str, Any], words: dict[str, tuple[str, ...]]) -> str | None:
    said = words.get(meta.get("style", ""), ())
    return next((text for text in meta["captions"] if not said or any(word in text for word in said)), None)


def right(change: Change, verdict: Verdict) -> bool:
    """Whether the judge finds what the edit should show."""
    if change.kind == "style":
        return verdict.style_of_thing[0] == change.expected.style
    if change.kind == "noun":
        return change.expected.concepts[0] in verdict.concepts[0]
    return verdict.background[0] == change.expected.background


def _read(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


def measure(model: LatentDiffusion, judge: Judge, some: list[Change]) -> dict[str, Any]:
    """Rates by method and kind, seconds by method, and decibels outside of what difference editing changed."""
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    decibels = []
    for number, change in enumerate(some):
        picture = Picture.of(model(change.source, seed=number).images[0])
        for method, settings in METHODS.items():
            task: Any = Img2Img(picture=picture, **settings)
            if method != "img2img":
                task = EditByWords(picture=picture, source=change.source, method=method, **settings)
            started = perf_counter()
            edited = model(change.target, task=task, seed=number).images[0]
            seconds[method].append(perf_counter() - started)
            (verdict,) = judge.classify(_read(edited), [change.expected])
            verdicts[method, change.kind].append(right(change, verdict))
            if method == "difference":
                local = EditByWords(picture=picture, source=change.source, local=LOCAL, **settings)
                kept = np.asarray(model(change.target, task=local, seed=number).images[0]) == picture.pixels
                error = (np.asarray(edited).astype(float) - picture.pixels)[kept.all(-1)]
                decibels.append(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-9)) if error.size else np.nan)
        (verdict,) = judge.classify(resize(_read(picture.image()), 256), [change.expected])
        verdicts["not edited", change.kind].append(right(change, verdict))
        print(f"{number + 1}/{len(some)}", end="\r", flush=True)
    rates = {" ".join(key): Rate.of(found) for key, found in verdicts.items()}
    return {
        "rates": {key: None if rate is None else str(rate) for key, rate in rates.items()},
        "seconds": {method: float(np.median(values)) for method, values in seconds.items()},
        "decibels_outside": float(np.nanmean(decibels)),
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--n", type=int, default=40, help="of each kind of change")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    splits = load_splits(arguments.data, 64)
    metas = [splits[0].metadata(index) for index in range(len(splits[0]))]
    judge, _ = trained_judge(arguments.data, JudgeConfig())
    words = style_words(load_manifest(arguments.data))
    some = list(changes(metas, words, arguments.n, arguments.seed))
    print(json.dumps(measure(LatentDiffusion.from_pretrained(arguments.model), judge, some), indent=2))


if __name__ == "__main__":
    main()
