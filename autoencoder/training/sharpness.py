"""How sharp pictures are, and how flat their flat ground: losses that look at gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

_PATCH, _STRIDE = 8, 4
_FLAT_AROUND, _LEVEL = 5, 2 / 255
_FAINT = 0.01  # deviations well below it, of values in [-1, 1], are all alike; it also bounds the root's slope


def sharpness_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean difference of the deviations of gradients within patches of 8 x 8 pixels.

    An edge that is a little off costs no more than a soft one under the mean error, which so prefers soft edges. Here
    it costs nothing within a patch. After the gradient variance loss (Abrahamyan et al. 2022, arXiv:2202.00997), with
    roots in place of variances, so that faint waves on flat ground count too.

    Args:
        x: (B, C, H, W), H and W at least 2.
        target: likewise; a constant.

    Returns:
        () in fp32, differentiable in x.
    """
    rows = _deviation(x.float().diff(dim=2)) - _deviation(target.float().diff(dim=2))
    columns = _deviation(x.float().diff(dim=3)) - _deviation(target.float().diff(dim=3))
    return 0.5 * (rows.abs().mean() + columns.abs().mean())


def flatness_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean absolute gradient where the target has none within 5 x 5 pixels: what waves on flat ground amount to.

    Other losses let them be, for they are faint, and are seen all the same. Edges cost nothing.

    Args:
        x: (B, C, H, W), H and W at least 2, values in [-1, 1].
        target: likewise; a constant. A gradient below one of 255 levels counts as none.

    Returns:
        () in fp32, differentiable in x.
    """
    steepest = torch.maximum(*(each.abs() for each in _gradients(target))).amax(1, keepdim=True)
    flat = F.max_pool2d(steepest, _FLAT_AROUND, 1, _FLAT_AROUND // 2) < 0.5 * _LEVEL
    rows, columns = (torch.where(flat, each, 0.0).abs().mean() for each in _gradients(x))
    return 0.5 * (rows + columns)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (B, C, H - 1, W - 1) to the pixels below and on the right."""
    return image.float().diff(dim=2)[..., :-1], image.float().diff(dim=3)[:, :, :-1]


def _deviation(gradients: Tensor) -> Tensor:
    patch = min(_PATCH, *gradients.shape[-2:])
    mean = F.avg_pool2d(gradients, patch, _STRIDE)
    variance = F.avg_pool2d(gradients.square(), patch, _STRIDE) - mean.square()
    return (variance.clamp_min(0.0) + _FAINT**2).sqrt()
