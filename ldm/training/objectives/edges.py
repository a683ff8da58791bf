"""Edge maps of pictures (Canny 1986), on whole batches and on any device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.299, 0.587, 0.114)


def canny(pictures: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Thin edges: smoothed gradients that are largest across the edge, and above `high` or tied to one that is.

    Args:
        pictures: `(B, 3, H, W)` in [-1, 1].
        sigma: deviation of the smoothing Gaussian, in pixels.
        low: threshold of the Sobel gradient of the grey picture in [0, 1] for edges tied to stronger ones.
        high: threshold for edges by themselves; a hard edge has about 2.

    Returns:
        `(B, 1, H, W)` of 0 and 1.
    """
    grey = ((pictures / 2 + 0.5) * pictures.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    down, right = _sobel(_blur(grey, sigma))
    strength = torch.hypot(down, right)
    ridge = _is_ridge(strength, down, right) & (strength > low)
    return _connected(ridge & (strength > high), ridge).to(pictures.dtype)


def _blur(x: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), 0)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives down and to the right."""
    kernel = torch.tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]], dtype=x.dtype, device=x.device)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    down, right = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None]).chunk(2, dim=1)
    return down, right


def _is_ridge(strength: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Where no neighbour along the gradient, its direction rounded to one of four, is stronger; of two equals, one."""
    height, width = strength.shape[2:]
    padded = F.pad(strength, (1, 1, 1, 1))
    angle = (torch.atan2(down, right) / (math.pi / 4)).round().remainder(4)
    result = torch.zeros_like(strength, dtype=torch.bool)
    for number, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead, behind = (
            padded[..., 1 + s * dy : 1 + s * dy + height, 1 + s * dx : 1 + s * dx + width] for s in (1, -1)
        )
        result = torch.where(angle == number, (strength > ahead) & (strength >= behind), result)
    return result


def _connected(seeds: Tensor, ridge: Tensor) -> Tensor:
    """The pixels of `ridge` that touch, through others of it, one of `seeds`. bool `(B, 1, H, W)`."""
    while True:
        grown = (F.max_pool2d(seeds.float(), 3, stride=1, padding=1) > 0) & ridge
        if torch.equal(grown, seeds):
            return seeds
        seeds = grown
