"""Finished pictures and their output types: PIL, NumPy, tensors, latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conditioning.clip.clip_text import TokenReport
from ldm.generation.recipe import Recipe
from ldm.io.disk.files import write_file
from ldm.io.metadata.png import png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


class NonFiniteError(ArithmeticError):
    """A network gave NaN or infinity; there is no picture to show."""


@dataclass(frozen=True)
class Result:
    """Finished pictures.

    Attributes:
        images: by `output_type`: a list of PIL images, which write their recipe into any PNG; `pt` (B, 3, H, W) or
            `np` (B, H, W, 3) fp32 in [0, 1]; or `latent` (B, C, h, w) fp32, what the denoiser left, before the latent
            format.
        seeds: one per picture.
        prompts: one per picture.
        recipes: one per picture; empty where something was given that no recipe can repeat: generators, latents,
            embeddings, `concat`, masks without a file, a sampler or an attention of the caller's own.
        tokens: how much of the text encoder each prompt fills, as it is read.
        seconds: for all of them together, without loading the model.
    """

    images: Any
    seeds: list[int]
    prompts: list[str]
    recipes: list[Recipe]
    tokens: list[TokenReport]
    seconds: float = 0.0

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures as PNG, with their recipes; each file is whole or not there.

        Args:
            path: of the picture, ending in `.png`; of several, `x.png` becomes `x-SEED.png` for each.

        Returns:
            The files, in order.

        Raises:
            ValueError: another ending, or pictures that are not of `output_type="pil"`.
            OSError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"path={str(path)!r} does not end in .png, which can carry the recipe; use x.png")
        if not isinstance(self.images, list):
            raise ValueError("save needs pictures of output_type='pil'; these are numbers")
        paths: list[Path] = []
        for number, (image, seed) in enumerate(zip(self.images, self.seeds, strict=True)):
            recipe = self.recipes[number] if self.recipes else None
            if len(self.images) > 1:  # several may share a generator, and so its seed
                stems = (f"{path.stem}-{seed}{f'-{copy}' if copy > 1 else ''}" for copy in count(1))
                paths.append(next(each for stem in stems if (each := path.with_stem(stem)) not in paths))
            else:
                paths.append(path)
            texts = (recipe.parameters(), recipe.to_json()) if recipe else ()
            write_file(paths[-1], png_bytes(image, *texts))
        return paths


def is_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    return bool(torch.isfinite(x).all())


def check_finite(x: Tensor, what: str) -> None:
    """Raise NonFiniteError if `what` gave numbers that are no picture."""
    if not is_finite(x):
        raise NonFiniteError(f"the {what} gave numbers that are not finite, so there is no picture; try dtype float32")


def in_form(x: "Tensor | list[Image]", output_type: str, recipes: Sequence[Recipe] = ()) -> Any:
    """Pictures (B, 3, H, W) in [0, 1], PIL images, or latents, as `Result.images` has them.

    Args:
        x: pictures or latents; images may have any mode, which only `pil` keeps.
        output_type: one of `OUTPUT_TYPES`.
        recipes: of the pictures, one each, or none.
    """
    if not isinstance(x, Tensor) and output_type != "pil":
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in x])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if isinstance(x, Tensor):
        if output_type == "latent":
            return x.float().cpu()
        if output_type == "pt":
            return x.cpu()
        if output_type == "np":
            return x.permute(0, 2, 3, 1).cpu().numpy()
    images = _to_images(x) if isinstance(x, Tensor) else x
    if not recipes:
        return images
    from ldm.io.metadata.recipe_image import RecipeImage

    pairs = zip(images, recipes, strict=True)
    return [RecipeImage.of(image, recipe.parameters(), recipe.to_json()) for image, recipe in pairs]


def _to_images(pictures: Tensor) -> "list[Image]":
    """Pictures (B, 3, H, W) in [0, 1] -> RGB images."""
    from PIL import Image

    pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
