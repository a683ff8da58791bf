"""Random access to the pictures of a data set, through a memory-mapped cache at the size that is trained."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from ldm.data.partial import clear_abandoned, partial_of
from ldm.data.shards import Sample, decode_picture, list_shards, read_shard

_CACHE_FORMAT = 1


class PictureDataset:
    """Pictures with captions from `folder/split/*.tar`.

    The shards are decoded once into `folder/.cache/<split>-<size>-<hash>/` (`images.npy` uint8 (N, S, S, 3) and
    `meta.jsonl`). With `crop_fraction > 0` the cache holds the pictures at twice the size: that share of the items are
    random crops of `size` from it, the others the whole picture averaged down to `size`.

    Args:
        folder: data set as a recipe writes it.
        size: height and width of the items.
        split: "train" or "held_out".
        crop_fraction: share of items that are random crops, in [0, 1].
        kind_weights: factors on the weights of pictures by their `kind`; kinds that are not named keep theirs.

    Raises:
        ValueError: crop_fraction is outside [0, 1], or crops are asked for of pictures smaller than twice `size`.
        FileNotFoundError: the split has no shards.
    """

    def __init__(
        self,
        folder: Path | str,
        size: int,
        split: str = "train",
        crop_fraction: float = 0.0,
        kind_weights: Mapping[str, float] | None = None,
    ) -> None:
        if not 0.0 <= crop_fraction <= 1.0:
            raise ValueError(f"crop_fraction={crop_fraction} is not in [0, 1]")
        if size < 1:
            raise ValueError(f"size={size} is not positive")
        self.size = size
        self.crop_fraction = crop_fraction
        self._kind_weights = dict(kind_weights or {})
        cached_size = 2 * size if crop_fraction > 0 else size
        cache = _ensure_cache(Path(folder), split, cached_size, no_enlarging=crop_fraction > 0)
        self.fingerprint = cache.name
        self._images = np.load(cache / "images.npy", mmap_mode="r")
        with (cache / "meta.jsonl").open(encoding="utf-8") as lines:
            self._meta: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._knows_sizes = all("original_size" in meta for meta in self._meta)

    def __len__(self) -> int:
        return len(self._meta)

    def meta(self, index: int) -> dict[str, Any]:
        """The json of picture `index`: captions, concept, style, kind, label and the rest the recipe wrote."""
        return self._meta[index]

    @property
    def weights(self) -> np.ndarray:
        """How often each picture should be drawn, relative to others: (N,) float64, 1 where no `weight` is given."""
        factors = self._kind_weights
        return np.array(
            [float(meta.get("weight", 1.0)) * factors.get(meta.get("kind", ""), 1.0) for meta in self._meta]
        )

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Picture `index` with a caption drawn by `generator` (a CPU generator; always four draws).

        Returns:
            "image": float32 (3, size, size) in [-1, 1]; "caption": str; "label": int; "index": int; and "sizes".
        """
        words = self.words(index, generator)
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if draws[0] >= self.crop_fraction:
            return {"image": self.image(index), **words, **self.sizes(index), "index": index}
        top, left = (int(draw * (self.size + 1)) for draw in draws[1:])
        return {"image": self._crop(index, top, left), **words, **self.sizes(index, top, left), "index": index}

    def sizes(self, index: int, top: int = 0, left: int = 0) -> dict[str, Tensor]:
        """What SDXL's size conditioning is told of picture `index` (Podell et al. 2023, section 2.2), as `sizes` (6,).

        Height and width before any scaling, top and left of the crop, height and width of the item. Nothing at all if
        an older version made the cache, which did not note the first two.
        """
        if not self._knows_sizes:
            return {}
        original = self._meta[index]["original_size"]
        return {"sizes": torch.tensor([*original, top, left, self.size, self.size], dtype=torch.float32)}

    def words(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """What is said of picture `index`: a `caption` drawn by `generator` (one draw) and the `label`."""
        meta = self._meta[index]
        draw = float(torch.rand((), generator=generator, dtype=torch.float64))
        captions = meta["captions"]
        return {"caption": captions[int(draw * len(captions))], "label": int(meta.get("label", -1))}

    def all_captions(self) -> list[str]:
        """Every caption that `item` can give, each once, sorted."""
        return sorted({caption for meta in self._meta for caption in meta["captions"]})

    def image(self, index: int) -> Tensor:
        """The whole picture: float32 (3, size, size) in [-1, 1]."""
        pixels = torch.from_numpy(np.array(self._images[index])).permute(2, 0, 1).float()
        if self.crop_fraction > 0:
            pixels = torch.nn.functional.avg_pool2d(pixels, 2)
        return pixels / 127.5 - 1.0

    def _crop(self, index: int, top: int, left: int) -> Tensor:
        pixels = self._images[index, top : top + self.size, left : left + self.size]
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1.0


def _ensure_cache(folder: Path, split: str, size: int, no_enlarging: bool) -> Path:
    shards = list_shards(folder, split)
    listing = "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in shards)
    key = hashlib.sha256(f"{_CACHE_FORMAT}\n{listing}".encode()).hexdigest()[:12]
    cache = folder / ".cache" / f"{split}-{size}-{key}"
    if not cache.exists():
        clear_abandoned(cache)
        scratch = partial_of(cache)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            _fill_cache(scratch, shards, size, no_enlarging)
            try:
                scratch.replace(cache)
            except OSError:
                if not cache.exists():  # else another process finished the same cache first, which is as good
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return cache


def _fill_cache(scratch: Path, shards: list[Path], size: int, no_enlarging: bool) -> None:
    metas: list[dict[str, Any]] = [
        sample.meta or {} for path in shards for sample in read_shard(path) if _is_complete(sample)
    ]
    images = np.lib.format.open_memmap(
        scratch / "images.npy", mode="w+", dtype=np.uint8, shape=(len(metas), size, size, 3)
    )
    samples = (sample for path in shards for sample in read_shard(path) if _is_complete(sample))
    decode = partial(_decode, size=size, no_enlarging=no_enlarging)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        decoded = _bounded_map(pool, decode, samples)
        progress = track(decoded, f"caching pictures at {size} px", total=len(metas))
        for index, (pixels, original_size) in enumerate(progress):
            images[index] = pixels
            metas[index] = {**metas[index], "original_size": original_size}
    images.flush()
    with (scratch / "meta.jsonl").open("w", encoding="utf-8") as lines:
        for meta in metas:
            lines.write(json.dumps(meta, ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _bounded_map(pool: ThreadPoolExecutor, function: Any, samples: Iterator[Sample]) -> Iterator[Any]:
    # Executor.map would read every shard into memory before the first result is taken.
    while batch := list(islice(samples, 256)):
        yield from pool.map(function, batch)


def _is_complete(sample: Sample) -> bool:
    return sample.picture is not None and bool(sample.meta and sample.meta.get("captions"))


def _decode(sample: Sample, size: int, no_enlarging: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels at the wanted size, and the height and width before."""
    try:
        picture = decode_picture(sample.picture or b"")
    except ValueError as error:
        raise ValueError(f"picture {sample.key} cannot be decoded ({error}); run `ldm data check`") from error
    if no_enlarging and min(picture.size) < size:
        raise ValueError(
            f"crop_fraction needs pictures of {size} px, but {sample.key} is {picture.size[0]} px; use a smaller size"
        )
    original_size = picture.height, picture.width
    if picture.size != (size, size):
        whole_factor = picture.width % size == 0 and picture.height % size == 0
        picture = picture.resize((size, size), Image.Resampling.BOX if whole_factor else Image.Resampling.LANCZOS)
    return np.asarray(picture), original_size
