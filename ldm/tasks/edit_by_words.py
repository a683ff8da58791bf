"""Editing by words: a picture, what it shows, and what it should show (difference editing, DDPM and DDIM inversion)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.denoiser import Denoiser
from ldm.families.kinds import TEXT_TO_IMAGE
from ldm.generation.draw import Start, Walk
from ldm.generation.task import TaskSetup
from ldm.guidance import GuidanceSettings
from ldm.noise import NoiseSource
from ldm.samplers import Noise, Sampler, Step, ddim, ddim_inversion
from ldm.tasks.base import Canvas, PictureTask, multiple_of, wanted_size
from ldm.tasks.composing import compose, heal, unframe
from ldm.tasks.editing_walks import PromptPair, changed_cells, ddpm_edit, difference_edit
from ldm.tasks.picture import image_of, resize
from ldm.tasks.settings import WordsSettings
from ldm.tasks.strength import part_of_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False, kw_only=True)
class EditByWords(WordsSettings, PictureTask):
    """A picture of one prompt made one of another, with what both say left alone."""

    name: ClassVar[str] = "edit"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source.strip():
            raise ValueError("source is empty; say what the picture shows, e.g. source='a red apple'")
        if self.local < 1 and self.method != "difference":
            raise ValueError(f"local={self.local:g} needs method='difference', which alone knows what it changes")

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The whole picture in the request's size."""
        size = wanted_size(self.picture, request, multiple_of(model, request))
        return Canvas.of(model, request, self.picture.resized(*size))

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas = self.canvas(model, resolved.recipe)
        z = canvas.encode(model, canvas.framed(canvas.picture.rgb))
        grid = part_of_grid(resolved.sampling, resolved.process, resolved.grid, self.strength).times
        changes = torch.zeros(len(resolved.prompts), *resolved.latent_size, device=model.device)
        edit = _Edit(self, canvas, z, changes, model, replace(resolved, grid=grid))
        return TaskSetup(edit.start, edit.pair, None, grid, edit.sampler, canvas.size, edit.finish)


@dataclass(frozen=True, eq=False)
class _Edit:
    """One drawing of the task: the latents (1, C, h, w) of its picture, and what its walks change (B, C, h, w)."""

    task: EditByWords
    canvas: Canvas
    z: Tensor
    changes: Tensor
    model: "OpenedModel"
    resolved: "ResolvedRequest"

    @property
    def start(self) -> Start | None:
        """At the noise that DDIM finds for the picture; the other walks find their own start."""
        return Start(self._inverted) if self.task.method == "ddim" else None

    def pair(self, denoiser: Denoiser, walk: Walk) -> Denoiser:
        """Both denoisers, for the walks that need them."""
        if self.task.method == "ddim":
            return denoiser
        rows = torch.tensor(walk.rows, device=self.changes.device)
        return PromptPair(denoiser, self._of_source(walk), lambda change: _add(self.changes, rows, change))

    @property
    def sampler(self) -> Sampler:
        """The walk that carries the picture over."""
        if self.task.method == "ddim":
            return ddim
        return self._difference if self.task.method == "difference" else self._ddpm

    def _difference(self, pair: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> "Iterator[Step]":
        assert isinstance(pair, PromptPair)
        z = self.z.to(x).expand_as(x)
        return difference_edit(pair, z, grid, noise, self.task.average)

    def _ddpm(self, pair: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> "Iterator[Step]":
        assert isinstance(pair, PromptPair)
        return ddpm_edit(pair, self.z.to(x).expand_as(x), grid, noise)

    def _inverted(self, walk: Walk) -> Tensor:
        z = self.z.to(walk.noise).expand_as(walk.noise)
        unused = NoiseSource([0], z.shape[1:], z.device)
        walks = ddim_inversion(self._of_source(walk), z, self.resolved.grid, unused, iterations=self.task.iterations)
        *_, last = walks
        return last.x

    def _of_source(self, walk: Walk) -> Denoiser:
        """The denoiser under the prompt that the picture shows."""
        given, guidance = self.task.source_guidance_scale, self.resolved.guidance
        if self.task.method == "ddim" and given is None:
            guidance = GuidanceSettings()
        elif given is not None:
            guidance = replace(guidance, guidance_scale=given)
        negatives = [self.resolved.negatives[row] for row in walk.rows]
        return walk.denoiser_of([self.task.source] * len(walk.rows), negatives, guidance)

    def finish(self, latents: Tensor) -> "list[Image]":
        """The pictures: the very bytes where nothing changed."""
        picture, kept = self.canvas.picture, (latents == self.z.to(latents)).flatten(1).all(1).tolist()
        decoded = self.canvas.decode(self.model, self.resolved, latents) if not all(kept) else [picture.rgb] * len(kept)
        masks = self._masks(len(latents))
        images = []
        for rgb, same, mask in zip(decoded, kept, masks, strict=True):
            if same:
                images.append(image_of(picture.pixels.copy()))
                continue
            if mask is not None:
                rgb = heal(picture.rgb, rgb, mask)
            output = picture.with_rgb(rgb)
            images.append(image_of(output if mask is None else compose(picture.pixels, output, mask)))
        return images

    def _masks(self, count: int) -> list[Tensor | None]:
        """Where each picture may change, (H, W); None is everywhere."""
        if self.task.local == 1:
            return [None] * count
        cells = changed_cells(self.changes, self.task.local)
        pixels = F.interpolate(cells[:, None], self.canvas.denoised, mode="nearest")
        height, width = self.canvas.picture.size
        return [resize(unframe(each, self.canvas.size), height, width)[0].clamp(0, 1) for each in pixels]


def _add(total: Tensor, rows: Tensor, change: Tensor) -> None:
    total.index_add_(0, rows, change)
