"""Conditioning besides texts: pictures in latent space, a noise level, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.families.kinds import CONCAT, TEXT_TO_IMAGE, kind_of, refusal
from ldm.networks.unet.config import UNetConfig

Size = tuple[int, int]
"""height, width (or top, left) in pixels, in diffusers' order."""

_SIZES = ("original_size", "crops_coords_top_left", "target_size")
_SCORES = ("aesthetic_score", "negative_aesthetic_score")


@dataclass(frozen=True, eq=False)
class ExtraConditioning:
    """Everything but the prompt, in diffusers' words; None is what diffusers does.

    Attributes:
        concat: (B, C', h, w) or (1, C', h, w), in the latent's size, what the network sees beside the latent; which
            channels, says `ldm.families.kinds.CONCAT`. Models for inpainting, editing, depth and upscaling need it.
        noise_level: of the picture in `concat`, for the upscaler.
        original_size, target_size: height and width that SDXL is conditioned on; by default those of the picture.
        crops_coords_top_left: top and left at which SDXL believes its picture was cut off.
        aesthetic_score, negative_aesthetic_score: what SDXL's refiner is conditioned on in place of `target_size`.
    """

    concat: Tensor | None = None
    noise_level: int | None = None
    original_size: Size | None = None
    crops_coords_top_left: Size | None = None
    target_size: Size | None = None
    aesthetic_score: float | None = None
    negative_aesthetic_score: float | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or not all(isinstance(each, int) for each in value)):
                raise ValueError(f"{name}={value!r} is not two whole numbers; use (height, width) such as (1024, 1024)")

    def pixels(self, factor: int) -> Size | None:
        """Height and width of the picture that `concat` belongs to, if there is one.

        Args:
            factor: pixels per cell of the latent.
        """
        return None if self.concat is None else (self.concat.shape[-2] * factor, self.concat.shape[-1] * factor)

    def check(self, config: UNetConfig, count: int, cells: Size) -> None:
        """Refuse what the network has no place for, and say what it lacks.

        Args:
            config: of the network.
            count: of pictures.
            cells: height and width of their latents.

        Raises:
            ValueError: names the field.
        """
        kind = kind_of(config) or TEXT_TO_IMAGE
        channels = config.in_channels - config.out_channels
        if self.concat is None and channels:
            raise ValueError(
                f"{refusal(kind)}; or give conditions=ExtraConditioning(concat=...) with {channels} channels, "
                f"{CONCAT[kind]}"
            )
        if self.concat is not None:
            batches = dict.fromkeys((count, 1))
            if tuple(self.concat.shape) not in [(batch, channels, *cells) for batch in batches]:
                wanted = f"{(count, channels, *cells)}" if channels else "none: it is for text to image"
                raise ValueError(f"concat is {tuple(self.concat.shape)}; this call of this model needs {wanted}")
        self._check_level(config, kind)
        takes_sizes = config.pooled_dim is not None
        known = {"original_size": takes_sizes, "crops_coords_top_left": takes_sizes}
        known |= {"target_size": takes_sizes and config.size_count == 6}
        known |= dict.fromkeys(_SCORES, takes_sizes and config.size_count == 5)
        for name, able in known.items():
            if getattr(self, name) is not None and not able:
                raise ValueError(f"{name}={getattr(self, name)!r} was given to a model that takes no such number")

    def _check_level(self, config: UNetConfig, kind: str) -> None:
        levels = config.num_classes if kind in CONCAT else None
        if levels is None:
            if self.noise_level is not None:
                raise ValueError(f"noise_level={self.noise_level} was given to a model that takes none")
        elif self.noise_level is None:
            raise ValueError(f"this model needs the noise_level of its picture: 0 to {levels - 1}, e.g. 20")
        elif not 0 <= self.noise_level < levels:
            raise ValueError(f"noise_level={self.noise_level} is out of range; use 0 to {levels - 1}, e.g. 20")

    def join(
        self, conditioning: Conditioning, config: UNetConfig, rows: Sequence[int], size: Size, negative: bool
    ) -> Conditioning:
        """The conditioning of some pictures' texts, and everything else that the network is conditioned on.

        Args:
            conditioning: of the texts, batch B.
            config: of the network.
            rows: the numbers of these pictures, B of them.
            size: of the picture, in pixels.
            negative: the texts are what to stay away from.
        """
        count = len(rows)
        if self.concat is not None:
            own = self.concat.expand(count, *self.concat.shape[1:]) if len(self.concat) == 1 else self.concat[rows]
            conditioning = replace(conditioning, concat=own)
        if self.noise_level is not None:
            conditioning = replace(conditioning, labels=torch.full((count,), self.noise_level))
        if config.pooled_dim is not None:
            sizes = torch.tensor(self._numbers(config.size_count, size, negative), dtype=torch.float32)
            conditioning = replace(conditioning, sizes=sizes.expand(count, -1))
        return conditioning

    def _numbers(self, count: int, size: Size, negative: bool) -> list[float]:
        """Podell et al. 2023, sec. 2.2; the refiner's scores as diffusers has them."""
        original, crop = self.original_size or size, self.crops_coords_top_left or (0, 0)
        if count == 6:
            return [*original, *crop, *(self.target_size or size)]
        if not negative:
            return [*original, *crop, 6.0 if self.aesthetic_score is None else self.aesthetic_score]
        # The refiner's negative side is never cropped there.
        return [*original, 0, 0, 2.5 if self.negative_aesthetic_score is None else self.negative_aesthetic_score]

    def recipe(self) -> dict[str, Any]:
        """The fields that are not None, without `concat`, in types that JSON has."""
        values = asdict(replace(self, concat=None))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_recipe(cls, content: Mapping[str, Any]) -> "ExtraConditioning":
        """The inverse of `recipe`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**fields)
