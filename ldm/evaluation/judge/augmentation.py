"""Makes real pictures look as imperfect as generated ones, so that the judge is fair to both."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_DRAWS = 11
_COARSE, _FINE = 8, 32
_BENDS = 6
_TOGETHER = 8  # pictures that stay in a core's cache: a third less time than 64 at once


@dataclass(frozen=True)
class AugmentationConfig:
    """Largest amounts; nothing is mirrored: left and right arrows are two concepts.

    Attributes:
        shift: of the picture, as a share of its size.
        scale: of the picture, as a share: 0.15 is 0.85 to 1.15 times as large.
        stretch: of width against height, in the same way.
        bend: of its parts against each other, as a share of its size: the standard deviation at 6 x 6 points.
        blur: 1 takes a picture all the way to a twice binomially blurred one; half of the pictures are blurred.
        sharpen: the same in the other direction.
        colour: contrast, brightness and balance of the channels, in [-1, 1] pixel units.
        noise: standard deviation of coarse blotches and of fine noise, in [-1, 1] pixel units.
    """

    shift: float = 0.06
    scale: float = 0.15
    stretch: float = 0.06
    bend: float = 0.02
    blur: float = 1.0
    sharpen: float = 0.4
    colour: float = 0.12
    noise: float = 0.08


def augment(images: Tensor, generators: list[torch.Generator], config: AugmentationConfig) -> Tensor:
    """images (B, 3, H, W) in [-1, 1] -> the same, disturbed; picture i only by draws of `generators[i]`."""
    starts = range(0, len(images), _TOGETHER)
    return torch.cat([_disturbed(images[k : k + _TOGETHER], generators[k : k + _TOGETHER], config) for k in starts])


def _disturbed(images: Tensor, generators: list[torch.Generator], config: AugmentationConfig) -> Tensor:
    draws = torch.stack([torch.rand(_DRAWS, generator=g) for g in generators]).to(images.device) * 2 - 1
    amounts = draws.T[..., None, None, None]
    x = _moved(images, draws, generators, config)
    x = _focused(x, amounts[4], config)
    gain, shade, balance = 1 + config.colour * amounts[5], config.colour * amounts[6], draws[:, 7:10, None, None]
    x = x * gain + shade + 0.5 * config.colour * balance
    strength = config.noise * amounts[10].clamp(min=0)
    return (x + strength * _noise(generators, images)).clamp(-1, 1)


def _moved(images: Tensor, draws: Tensor, generators: list[torch.Generator], config: AugmentationConfig) -> Tensor:
    matrix = torch.zeros(len(images), 2, 3, device=images.device)
    scale = 1 + config.scale * draws[:, 0]
    matrix[:, 0, 0] = scale * (1 + config.stretch * draws[:, 1])
    matrix[:, 1, 1] = scale * (1 - config.stretch * draws[:, 1])
    matrix[:, :, 2] = 2 * config.shift * draws[:, 2:4]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    bends = torch.stack([torch.randn(2, _BENDS, _BENDS, generator=g) for g in generators]).to(images.device)
    bends = F.interpolate(bends, images.shape[-2:], mode="bicubic", align_corners=True)
    grid = grid + 2 * config.bend * bends.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _focused(x: Tensor, amount: Tensor, config: AugmentationConfig) -> Tensor:
    """Blurred by `amount` above 0, sharpened by `amount` below 0."""
    once = _binomial(x)
    twice = _binomial(_binomial(once))
    blur = config.blur * amount.clamp(min=0)
    near, far = (2 * blur).clamp(max=1), (2 * blur - 1).clamp(min=0)
    softened = torch.lerp(torch.lerp(x, once, near), twice, far)
    return softened + config.sharpen * (-amount).clamp(min=0) * (x - once)


def _binomial(x: Tensor) -> Tensor:
    """A blur by (1, 2, 1) / 4 along both axes; sums of shifted pictures are several times faster than pooling here."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16


def _noise(generators: list[torch.Generator], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for size in (_COARSE, _FINE):
        field = torch.stack([torch.randn(like.shape[1], size, size, generator=g) for g in generators]).to(like.device)
        total = total + F.interpolate(field, like.shape[-2:], mode="bilinear", align_corners=False)
    return total
