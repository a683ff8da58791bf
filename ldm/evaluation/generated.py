"""Pictures that a model draws for an evaluation: kept in a folder as they are finished, and read back."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ldm.evaluation.resizing import resize
from ldm.generation.few_steps import defaults_for, in_few_steps
from ldm.generation.request import Request
from ldm.generation.resolve import check_settings
from ldm.io.disk.files import write_file
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.progress import Progress, silent
from ldm.training.reports.preview_sheet import picture_grid

_SEEDS_OF_A_PART = 1_000_000
_GRID = 64
_FULL, _QUICK = 500, 40
_TILE = 128
Texts = Mapping[str, Sequence[str]]


def prompts_of_each_kind(n: int | None, quick: bool) -> int:
    """How many prompts are drawn for: `n`, or the usual number.

    Raises:
        ValueError: n is below 1.
    """
    if n is not None and n < 1:
        raise ValueError(f"n={n} must be at least 1")
    return n or (_QUICK if quick else _FULL)


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    Attributes:
        steps: of the sampler.
        guidance_scale: how strongly the prompt guides.
        seed: of the noise.
        batch_size: pictures generated at once; it does not change them but for rounding.
        fast: with the model's weights for few steps.
        guidance_options, cache_options: as in `Request`.
    """

    steps: int
    guidance_scale: float
    seed: int
    batch_size: int
    fast: bool = False
    guidance_options: Mapping[str, Any] = field(default_factory=dict)
    cache_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: LatentDiffusion,
        steps: int | None,
        guidance_scale: float | None,
        seed: int,
        batch_size: int,
        guidance_options: Mapping[str, Any] | None = None,
        cache_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """As a call of the model with these settings draws; None leaves one to the model."""
        request = Request(
            prompt="",
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            guidance_options=guidance_options or {},
            cache_options=cache_options or {},
        )
        check_settings(request)
        own = defaults_for(model, request)
        steps = own.num_inference_steps if steps is None else steps
        scale = own.guidance_scale if guidance_scale is None else guidance_scale
        fast = in_few_steps(model, request)
        return cls(steps, scale, seed, batch_size, fast, request.guidance_options, request.cache_options)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class GeneratedPictures:
    """The pictures of every part of an evaluation, as `folder/<part>/00012.png`."""

    folder: Path

    def draw_missing(self, model: LatentDiffusion, texts: Texts, drawing: Drawing, progress: Progress = silent) -> int:
        """Draw what is not there yet for the prompts of each part, saving each as it is finished. Returns how many."""
        tasks = [
            (text, drawing.seed + number * _SEEDS_OF_A_PART + i, self.path(part, i))
            for number, (part, chosen) in enumerate(texts.items())
            for i, text in enumerate(chosen)
        ]
        missing = [task for task in tasks if not task[2].is_file()]
        done = len(tasks) - len(missing)
        if missing:
            progress("drawing pictures", done, len(tasks))
        for batch in _runs(missing, drawing.batch_size):
            request = Request(
                prompt=tuple(text for text, _, _ in batch),
                seed=batch[0][1],
                num_inference_steps=drawing.steps,
                guidance_scale=drawing.guidance_scale,
                fast=drawing.fast,
                guidance_options=drawing.guidance_options,
                cache_options=drawing.cache_options,
            )
            result = model.steps(request).result
            for picture, (_, _, path) in zip(result.images, batch, strict=True):
                _write_picture(picture, path)
            done += len(batch)
            progress("drawing pictures", done, len(tasks))
        return len(missing)

    def path(self, part: str, number: int) -> Path:
        """Where picture `number` of a part is."""
        return self.folder / part / f"{number:05d}.png"

    def edge(self, part: str) -> int:
        """The shorter edge of the part's pictures in pixels."""
        with Image.open(self.path(part, 0)) as picture:
            return min(picture.size)

    def read(self, part: str, numbers: Sequence[int], size: int) -> Tensor:
        """Pictures of a part: (N, 3, size, size) in [-1, 1]."""
        return torch.cat([resize(_read_picture(self.path(part, i)), size) for i in numbers])

    def write_grid(self, part: str, count: int) -> None:
        """Write the first of a part's `count` pictures side by side, as `folder/<part>.png`."""
        tiles = self.read(part, range(min(count, _GRID)), _TILE) / 2 + 0.5
        _write_picture(Image.fromarray(picture_grid(tiles).numpy()), self.folder / f"{part}.png")

    def write_beside(self, part: str, numbers: Sequence[int], others: Tensor, name: str) -> None:
        """Write pictures of a part, each above its own of others (N, 3, H, W) in [-1, 1], as `folder/<name>.png`."""
        tiles = torch.cat([self.read(part, numbers, _TILE), resize(others, _TILE)], 2) / 2 + 0.5
        _write_picture(Image.fromarray(picture_grid(tiles).numpy()), self.folder / f"{name}.png")


def drawing_key(model: LatentDiffusion, texts: Texts, drawing: Drawing) -> str:
    """Another one whenever the pictures would be others: it belongs to weights, prompts and settings."""
    digest = hashlib.sha256(json.dumps([drawing.steps, drawing.guidance_scale, drawing.seed]).encode())
    digest.update(json.dumps([[part, text] for part, chosen in texts.items() for text in chosen]).encode())
    if options := [dict(each) for each in (drawing.guidance_options, drawing.cache_options) if each]:
        digest.update(json.dumps(options).encode())
    parts = model.parts
    if drawing.fast and parts.few_steps is not None:
        digest.update(parts.few_steps.lora.read_bytes())
    for network in (parts.text, parts.unet, parts.autoencoder, parts.upscaler):
        for name, value in sorted(network.state_dict().items()) if isinstance(network, nn.Module) else ():
            digest.update(f"{name} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.inference_mode()
def autoencoded(model: LatentDiffusion, images: Tensor, size: int) -> Tensor:
    """Real pictures through the model's autoencoder and upscaler, as if a denoiser had given their very latents.

    Args:
        model: its own size is what is encoded.
        images: (B, 3, S, S) in [-1, 1].
        size: of the result.

    Returns:
        (B, 3, size, size) in [-1, 1].
    """
    small = resize(images, model.parts.defaults.width)
    return resize(model.decode(model.encode(small / 2 + 0.5)).cpu() * 2 - 1, size)


def _runs(tasks: Sequence[tuple[str, int, Path]], longest: int) -> Iterator[list[tuple[str, int, Path]]]:
    """Batches with consecutive seeds: the pipeline gives picture i of a batch the seed `first + i`."""
    run: list[tuple[str, int, Path]] = []
    for task in tasks:
        if run and (len(run) == longest or task[1] != run[-1][1] + 1):
            yield run
            run = []
        run.append(task)
    if run:
        yield run


def _read_picture(path: Path) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def _write_picture(picture: Image.Image, path: Path) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_file(path, encoded.getvalue())
