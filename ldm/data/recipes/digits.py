"""A tiny data set for trying the whole chain in minutes: scikit-learn's 1,797 handwritten digits."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from ldm.data.recipes.card import write_card
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.io.disk.files import write_file

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT_SHARE = 0.10

_NOTES = [
    "Source: the 1,797 digits of `sklearn.datasets.load_digits`, the test part of E. Alpaydin and C. Kaynak, Optical "
    "Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49.",
    "Licence: CC BY 4.0, https://creativecommons.org/licenses/by/4.0/. Changes: scaled and saved as RGB.",
    f"Held out: {HELD_OUT_SHARE:.0%} of the pictures, by sha256 of their number, for every seed the same.",
    "Captions: four for each picture. Weights: all 1. Nothing was dropped.",
]


def build_digits(folder: Path, size: int = 32, seed: int = 0) -> dict[str, Any]:
    """Write the digits, enlarged from 8x8 to `size`, white on black, and return the manifest.

    Every tenth picture or so, chosen by sha256 of its number, is held out. Equal arguments give equal bytes.

    Raises:
        ValueError: size is below 8.
        OSError: the folder cannot be written.
    """
    from sklearn.datasets import load_digits

    if size < 8:
        raise ValueError(f"size={size} is less than 8")
    digits = load_digits()
    order = list(range(len(digits.target)))
    Random(f"{seed}/order").shuffle(order)
    counts, shards = {}, []
    for split, wanted in (("train", False), ("held_out", True)):
        chosen = [index for index in order if _is_held_out(index) is wanted]
        path = folder / split / "000000.tar"
        write_shard(path, _samples(digits.images, digits.target, chosen, size, seed))
        counts[split] = {"pictures": len(chosen)}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append({"path": f"{split}/{path.name}", "pictures": len(chosen), "sha256": digest})
    manifest = {
        "recipe": "digits",
        "size": size,
        "seed": seed,
        "counts": counts,
        "concepts": [{"label": number, "concept": word, "noun": f"digit {word}"} for number, word in enumerate(WORDS)],
        "shards": shards,
        "about": "Handwritten digits, white on black, enlarged from 8 x 8 px, with captions in words.",
        "notes": _NOTES,
    }
    write_card(folder / "card.md", manifest)
    write_file(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _samples(images: np.ndarray, targets: np.ndarray, chosen: list[int], size: int, seed: int) -> Iterator[Sample]:
    for number, index in enumerate(chosen):
        picture = Image.fromarray(np.rint(images[index] * (255 / 16)).astype(np.uint8)).convert("RGB")
        encoded = io.BytesIO()
        picture.resize((size, size), Image.Resampling.BICUBIC).save(encoded, "PNG", compress_level=1)
        label = int(targets[index])
        meta = {
            "captions": _captions(label, Random(f"{seed}/captions/{index}")),
            "concept": WORDS[label],
            "noun": f"digit {WORDS[label]}",
            "style": "handwritten",
            "kind": "icon",
            "label": label,
            "source": "sklearn.datasets.load_digits",
            "licence": "CC-BY-4.0",
            "weight": 1.0,
        }
        yield Sample(f"{number:06d}", encoded.getvalue(), meta)


def _captions(label: int, rng: Random) -> list[str]:
    word = WORDS[label]
    captions = [f"the digit {word}", f"a handwritten {label}", f"the number {word}", f"a handwritten {word}"]
    rng.shuffle(captions)
    return captions


def _is_held_out(index: int) -> bool:
    digest = hashlib.sha256(f"digit {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT_SHARE
