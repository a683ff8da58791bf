"""Random access to the pictures of a data set at the size that is trained."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.pictures.augmenting import DRAWS, AugmentConfig, Cut, draw_cut, tint, vary_caption
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.buckets import BucketConfig, assign, bucket_shapes
from ldm.data.pictures.decoding import fit, fit_offset
from ldm.data.pictures.frames import BadPicture, CachedFrames, Frame, Frames, LiveFrames, original_sizes, worth_caching
from ldm.data.sources.mixture import SourceMixture
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.naming import look_up
from ldm.progress import Progress, silent

CACHE_PICTURES = ("auto", "true", "false")
_ATTEMPTS = 32


class PictureDataset:
    """Pictures with captions, from any source.

    A picture is scaled until it just covers its shape, the square of `size` or a bucket, and its middle is taken. With
    `crop_fraction > 0` this frame is twice as large: that share of the items are random crops of the shape from it, the
    others the whole frame averaged down. A picture that cannot be used is reported once and another one, always the
    same, is given in its place.

    Args:
        source: what `open_source` gave, or a folder or address to open.
        size: height and width of the items, without buckets.
        split: of a folder or address: "train" or "held_out".
        crop_fraction: share of items that are random crops, in [0, 1].
        kind_weights: factors on the weights of pictures by their `kind`; kinds that are not named keep theirs.
        cache_pictures: "true" decodes every picture once into a file beside the other caches, "false" decodes at
            every access, with the same pixels; "auto" caches what takes up to 16 GiB and half of the free disk.
        bad_pictures: learns of the pictures that cannot be used.
        buckets: shapes that items may have beside the square; None for none.
        augment: how items are varied; `image` and `usable` give the pictures as they are.
        progress: of what is found out and decoded now.

    Attributes:
        shapes: heights and widths of items, (K, 2).
        groups: which of them each item has, (N,); None if there is only one.
        cache: folder for what is found out about these pictures.
        fingerprint: another one whenever the pictures or their pixels are others.

    Raises:
        ValueError: crop_fraction is outside [0, 1], crops are requested of pictures smaller than twice `size`, not one
            picture can be used, or as `open_source`.
        FileNotFoundError: there is no such part.
        OSError: an address cannot be reached.
    """

    def __init__(
        self,
        source: SourceMixture | Path | str,
        size: int,
        split: str = "train",
        crop_fraction: float = 0.0,
        kind_weights: Mapping[str, float] | None = None,
        cache_pictures: str = "auto",
        bad_pictures: BadPictures | None = None,
        buckets: BucketConfig | None = None,
        augment: AugmentConfig | None = None,
        progress: Progress = silent,
    ) -> None:
        if not 0.0 <= crop_fraction <= 1.0:
            raise ValueError(f"crop_fraction={crop_fraction} is not in [0, 1]")
        self.augment = augment or AugmentConfig()
        if crop_fraction > 0 and self.augment.crop_scale < 1:
            raise ValueError(
                f"crop_fraction={crop_fraction} cannot be combined with augment.crop_scale; use one of them"
            )
        if size < 1:
            raise ValueError(f"size={size} is not positive")
        look_up("cache_pictures", cache_pictures, dict.fromkeys(CACHE_PICTURES))
        if not isinstance(source, SourceMixture):
            source = open_source([SourceConfig(str(source))], split, progress=progress)
        self.size, self.crop_fraction, self.cache = size, crop_fraction, source.cache
        self._source, self._kind_weights = source, dict(kind_weights or {})
        self._bad_pictures = bad_pictures or BadPictures()
        self.shapes = bucket_shapes(size, buckets or BucketConfig())
        self.groups = assign(original_sizes(source, progress), self.shapes) if len(self.shapes) > 1 else None
        self._enlarged = 2.0 if crop_fraction > 0 else self.augment.crop_scale**-0.5
        frame_shapes = np.array([self._frame_shape((height, width)) for height, width in self.shapes.tolist()])
        live = LiveFrames(source, frame_shapes, self.groups, no_enlarging=crop_fraction > 0)
        self.fingerprint = live.name
        self._frames: Frames = live
        if cache_pictures == "true" or (cache_pictures == "auto" and worth_caching(live, self.cache)):
            self._frames = cached = CachedFrames(live, self.cache, progress)
            for index, reason in cached.bad.items():
                self._bad_pictures.report(source.where(index), reason)

    def __len__(self) -> int:
        return len(self._source)

    def metadata(self, index: int) -> dict[str, Any]:
        """The metadata of picture `index`: captions, concept, style, kind, label and the rest the source says."""
        return self._source.metadata(index)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds that pictures are of, as their recipe names them."""
        return frozenset(self._source.columns.kinds.tolist()) - {""}

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each picture should be drawn, relative to others: (N,) float64, 1 where no `weight` is given."""
        columns = self._source.columns
        own = columns.weights.copy()
        for kind, factor in self._kind_weights.items():
            own[columns.kinds == kind] *= factor
        return self._source.balanced(own)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of item `index`."""
        height, width = self.shapes[0 if self.groups is None else self.groups[index]].tolist()
        return height, width

    @cached_property
    def original_sizes(self) -> np.ndarray:
        """Height and width of every upright picture before any scaling: int32 (N, 2), 0 where they are unknown."""
        return self._frames.original_sizes()

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Picture `index` with a caption drawn by `generator` (a CPU generator; always eleven draws).

        Returns:
            "image": float32 (3, H, W) in [-1, 1]; "caption" and "kind": str; "label" and "index": int; and "sizes".
            For a picture that cannot be used all but "index" are those of the one that stands in for it.
        """
        used, frame = self._load(index)
        height, width = shape = self.shape(index)
        words = self.words(used, generator)
        draws = torch.rand(3 + DRAWS, generator=generator, dtype=torch.float64).tolist()
        cut = draw_cut(self.augment, self._frame_shape(shape), draws[3:])
        if draws[0] < self.crop_fraction:
            top, left = int(draws[1] * (height + 1)), int(draws[2] * (width + 1))
            cut = replace(cut, top=top, left=left, height=height, width=width)
        image = self._seen(frame, cut, shape)
        if self.augment.colour:
            image = tint(image, self.augment.colour, draws[-3:])
        return {"image": image, **words, "sizes": self._size_numbers(frame.original_size, shape, cut), "index": index}

    def usable(self, index: int) -> tuple[int, Tensor]:
        """The whole picture, float32 (3, H, W) in [-1, 1], and its number: `index`, or that of its stand-in.

        `words` of that number belong to it, and `sizes` of that number in the shape of `index`.
        """
        used, frame = self._load(index)
        shape = self.shape(index)
        return used, self._seen(frame, self._whole(shape), shape)

    def sizes(self, index: int, shape: tuple[int, int]) -> dict[str, Tensor]:
        """SDXL's size conditioning for the whole picture `index` as an item of `shape`, as `sizes` (6,).

        Height and width before any scaling, top and left of the part that is seen, in the scaled picture, height and
        width of the item (Podell et al. 2023, section 2.2).
        """
        height, width = self.original_sizes[index].tolist()
        return {"sizes": self._size_numbers((height, width), shape, self._whole(shape))}

    def words(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Text and class of picture `index`: a `caption` drawn by `generator` (one draw), `kind` and `label`."""
        columns = self._source.columns
        draw = float(torch.rand((), generator=generator, dtype=torch.float64))
        captions = columns.captions[index] or [""]
        caption = vary_caption(captions[int(draw * len(captions))], self.augment, draw)
        return {"caption": caption, "kind": str(columns.kinds[index]), "label": int(columns.labels[index])}

    def all_captions(self) -> list[str]:
        """Every caption that `item` can give before augmentation, each once, sorted."""
        return sorted({caption for captions in self._source.columns.captions for caption in captions})

    def image(self, index: int) -> Tensor:
        """The whole picture, or the one that stands in for it: float32 (3, H, W) in [-1, 1]."""
        return self.usable(index)[1]

    def _load(self, index: int) -> tuple[int, Frame]:
        """A frame, and the number of its picture: `index`, or else the next in a random order that `index` seeds."""
        for attempt in range(_ATTEMPTS):
            candidate = index if attempt == 0 else _draw(index, attempt) % len(self)
            if attempt > 0 and self.weights[candidate] == 0:
                continue
            try:
                frame = self._frames.frame(candidate)
            except BadPicture as error:
                self._bad_pictures.report(self._source.where(candidate), str(error))
                continue
            if self.shape(candidate) != (shape := self.shape(index)):
                pixels = np.asarray(fit(Image.fromarray(frame.pixels), *self._frame_shape(shape)))
                frame = Frame(pixels, frame.original_size)
            return candidate, frame
        where = self._source.where(index)
        raise ValueError(f"{where} and {_ATTEMPTS - 1} others in its place cannot be used; run `ldm data check`")

    def _frame_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the frame that items of a shape are cut from."""
        height, width = (math.ceil(self._enlarged * edge - 1e-6) for edge in shape)
        return height, width

    def _whole(self, shape: tuple[int, int]) -> Cut:
        return Cut(0, 0, *self._frame_shape(shape))

    def _size_numbers(self, original: tuple[int, int], shape: tuple[int, int], cut: Cut) -> Tensor:
        """`sizes` (6,) for a part of the frame; where it is, is said in a picture scaled as the part is."""
        frame = self._frame_shape(shape)
        above, beside = fit_offset(original, *frame)
        left = frame[1] - cut.width - cut.left if cut.mirrored else cut.left
        down, across = (1.0, 1.0) if self.crop_fraction > 0 else (shape[0] / cut.height, shape[1] / cut.width)
        return torch.tensor(
            [*original, round(down * (above + cut.top)), round(across * (beside + left)), *shape]
        ).float()

    def _seen(self, frame: Frame, cut: Cut, shape: tuple[int, int]) -> Tensor:
        """A part of the frame as float32 (3, H, W) in [-1, 1]."""
        pixels = frame.pixels[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
        if self.crop_fraction == 0 and pixels.shape[:2] != shape:
            pixels = np.asarray(fit(Image.fromarray(pixels), *shape))
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()
        if image.shape[1:] != shape:
            image = torch.nn.functional.avg_pool2d(image, 2)
        return (image.flip(2) if cut.mirrored else image) / 127.5 - 1.0


def _draw(index: int, attempt: int) -> int:
    """A large number for a picture and an attempt, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{index}/{attempt}".encode()).digest()[:8], "big")
