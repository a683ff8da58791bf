"""Regional prompts: each region of the picture has a prompt of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser
from ldm.guidance.chain import fit_batch
from ldm.guidance.mixture import Mixture, MixtureWeight


@dataclass(frozen=True, eq=False)
class Region:
    """A prompt and where it holds.

    Attributes:
        conditioning: of the region's prompt, batch B or 1.
        mask: `(H, W)`, or `(B, H, W)` for one per picture, in [0, 1]; of any size, it is averaged down to the latent's.
            Soft edges blend.
    """

    conditioning: Conditioning
    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.ndim not in (2, 3):
            raise ValueError(f"mask is {tuple(self.mask.shape)}; a region's mask is (H, W) or (B, H, W)")
        mask = self.mask.float()
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise ValueError(f"mask goes from {mask.min().item():g} to {mask.max().item():g}; keep it in [0, 1]")


class Regions(Mixture):
    """The prompts of regions, mixed pixel by pixel (Bar-Tal et al. 2023, "MultiDiffusion", eq. 5).

    Where regions overlap they share by weight; where they leave a rest, the wrapped denoiser's own conditioning fills
    it. It is not run where nothing is left. Other conditionings (negative prompts) hold for the whole picture. One
    network call over (regions + 1) B.

    Args:
        denoiser: conditioned on the prompt of the whole picture, batch B.
        regions: at least one.

    Raises:
        ValueError: no regions, a mask that is no mask, or batch sizes that differ.
    """

    def __init__(self, denoiser: ConditionalDenoiser, regions: Sequence[Region]) -> None:
        super().__init__(denoiser)
        if not regions:
            raise ValueError("regions is empty; give at least one, or use the denoiser itself")
        self._conditionings = [fit_batch(region.conditioning, denoiser, "a region") for region in regions]
        for region, conditioning in zip(regions, self._conditionings, strict=True):
            if region.mask.ndim == 3 and len(region.mask) not in (1, conditioning.batch_size):
                raise ValueError(
                    f"a region has {len(region.mask)} masks for {conditioning.batch_size} pictures; "
                    f"use {conditioning.batch_size} or 1"
                )
        self._masks = [region.mask.float() for region in regions]

    def _parts(self, x: Tensor) -> list[tuple[Conditioning | None, MixtureWeight]]:
        size = x.shape[-2:]
        masks = [mask.reshape(-1, 1, *mask.shape[-2:]) for mask in self._masks]
        weights = [F.interpolate(mask, size=size, mode="area") for mask in masks]
        total = torch.stack(torch.broadcast_tensors(*weights)).sum(0)
        parts: list[tuple[Conditioning | None, MixtureWeight]] = [
            (conditioning, (weight / total.clamp(min=1)).to(x.device))
            for conditioning, weight in zip(self._conditionings, weights, strict=True)
        ]
        rest = (1 - total).clamp(min=0)
        if bool((rest > 1e-6).any()):
            parts.append((None, rest.to(x.device)))
        return parts
