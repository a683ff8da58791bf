"""Finished pictures and their output types: PIL, NumPy, tensors, latents."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conditioning.clip.clip_text import TokenReport
from ldm.generation.recipe import Recipe

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


class NonFiniteError(ArithmeticError):
    """A network gave NaN or infinity; there is no picture to show."""


@dataclass(frozen=True)
class Result:
    """Finished pictures.

    Attributes:
        images: by `output_type`: a list of PIL images; `pt` (B, 3, H, W) or `np` (B, H, W, 3) fp32 in [0, 1]; or
            `latent` (B, C, h, w) fp32, what the denoiser left, before the latent format.
        seeds: one per picture.
        prompts: one per picture.
        recipes: one per picture; empty where `generator`, `latents`, `concat` or masks without a file were given, which
            no recipe can repeat.
        tokens: how much of the text encoder each prompt fills, as it is read.
        seconds: for all of them together, without loading the model.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    recipes: list[Recipe]
    tokens: list[TokenReport]
    seconds: float = 0.0


def check_finite(x: Tensor, what: str) -> None:
    """Raise NonFiniteError if `what` gave numbers that are no picture."""
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"the {what} gave numbers that are not finite, so there is no picture; try dtype float32")


def in_form(x: Tensor, output_type: str) -> Any:
    """Pictures (B, 3, H, W) in [0, 1], or latents, as `Result.images` has them."""
    if output_type == "latent":
        return x.float().cpu()
    if output_type == "pt":
        return x.cpu()
    if output_type == "np":
        return x.permute(0, 2, 3, 1).cpu().numpy()
    from PIL import Image

    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
