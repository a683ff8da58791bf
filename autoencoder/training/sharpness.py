"""How sharp pictures are: how much their gradients vary from place to place."""

import torch.nn.functional as F
from torch import Tensor

_PATCH, _STRIDE = 8, 4
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


def _deviation(gradients: Tensor) -> Tensor:
    patch = min(_PATCH, *gradients.shape[-2:])
    mean = F.avg_pool2d(gradients, patch, _STRIDE)
    variance = F.avg_pool2d(gradients.square(), patch, _STRIDE) - mean.square()
    return (variance.clamp_min(0.0) + _FAINT**2).sqrt()
