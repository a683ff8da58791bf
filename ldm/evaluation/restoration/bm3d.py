"""BM3D for colours as in its paper (Dabov et al. 2007): like patches filtered together, thresholded, then Wiener.

Our own, from the paper alone: the package `bm3d` is not free for every use.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PATCH = 8
_STRIDE = 3
_REACH = 12
_HARD_GROUP, _WIENER_GROUP = 16, 32
_THRESHOLD = 2.7
_STRONG = 40 / 255  # from here on patches are compared without their weak frequencies
_FAR_NOISY, _FAR_BASIC = (0.038, 0.077), (0.0062, 0.054)
"""Patches further apart are no longer alike (the paper's 2500, 5000, 400 and 3500 of 255²), weak and strong noise."""
_AT_ONCE = 2**14
_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
_OPPONENT = _OPPONENT / _OPPONENT.norm(dim=1, keepdim=True)


def to_opponent(picture: Tensor) -> Tensor:
    """Red, green and blue -> brightness and two differences of colours, orthonormal: noise keeps its deviation."""
    return torch.einsum("ij,jhw->ihw", _OPPONENT, picture)


def from_opponent(picture: Tensor) -> Tensor:
    """The inverse of `to_opponent`."""
    return torch.einsum("ji,jhw->ihw", _OPPONENT, picture)


def bm3d(picture: Tensor, sd: float, strength: float = 1.0) -> Tensor:
    """picture (3, H, W) in [0, 1] with noise of deviation `sd` -> without; `strength` multiplies the thresholds."""
    sd = sd * strength
    if sd <= 0:
        return picture
    height, width = picture.shape[1:]
    below, right = (max(_PATCH - edge, -(edge - _PATCH) % _STRIDE) for edge in (height, width))
    noisy = to_opponent(F.pad(picture[None], (0, right, 0, below), mode="replicate")[0])

    def thresholded(groups: list[Tensor]) -> tuple[Tensor, Tensor]:
        kept = groups[0].abs() > _THRESHOLD * sd
        kept[..., 0, 0] = True  # means stay
        return groups[0] * kept, 1 / kept.sum((2, 3), keepdim=True).clamp(min=1)

    def weighted(groups: list[Tensor]) -> tuple[Tensor, Tensor]:
        gain = groups[1].square() / (groups[1].square() + sd**2)
        gain[..., 0, 0] = 1
        return groups[0] * gain, 1 / gain.square().sum((2, 3), keepdim=True).clamp(min=1e-6)

    strong = sd >= _STRONG
    first = _like(noisy[0], _HARD_GROUP, _FAR_NOISY[strong], 2.0 * sd if strong else 0.0)
    basic = _filtered([noisy], first, thresholded)
    final = _filtered([noisy, basic], _like(basic[0], _WIENER_GROUP, _FAR_BASIC[strong]), weighted)
    return from_opponent(final)[:, :height, :width]


def _like(brightness: Tensor, count: int, far: float, weak: float = 0.0) -> list[Tensor]:
    """For every reference patch the patches that are most like it, and itself, as flat indices of their corners.

    Args:
        brightness: (H, W), whose patches at every third pixel are the references.
        count: how many of them at most.
        far: mean squared difference of those that are left out.
        weak: amplitude of the frequencies that are not compared.

    Returns:
        Groups of equal size, a power of two: (references, size) each.
    """
    patches = brightness.unfold(0, _PATCH, 1).unfold(1, _PATCH, 1)
    if weak:
        cosines = _cosines()
        frequencies = cosines @ patches @ cosines.T
        patches = frequencies * (frequencies.abs() > weak)
    patches = patches.flatten(2)
    height, width, _ = patches.shape
    beyond = F.pad(patches, (0, 0, *(_REACH,) * 4), value=math.inf)
    reference = patches[::_STRIDE, ::_STRIDE].contiguous()
    distances, places = [], []
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            top, left = down + _REACH, right + _REACH
            other = beyond[top : top + height : _STRIDE, left : left + width : _STRIDE]
            distances.append((other - reference).square_().mean(-1).flatten())
            if not down and not right:
                distances[-1].fill_(-1)  # the reference itself, so that every pixel belongs to a group
            places.append(down * brightness.shape[1] + right)
    found = torch.stack(distances).topk(count, 0, largest=False, sorted=True)
    rows, columns = (torch.arange(0, length, _STRIDE) for length in (height, width))
    corners = (rows[:, None] * brightness.shape[1] + columns).flatten()
    members = (corners + torch.tensor(places)[found.indices]).T
    sizes = 2 ** (found.values <= far).sum(0).clamp(min=1).double().log2().floor().long()
    return [members[sizes == size, :size] for size in sizes.unique().tolist()]


def _filtered(
    pictures: list[Tensor], groups: list[Tensor], shrink: Callable[[list[Tensor]], tuple[Tensor, Tensor]]
) -> Tensor:
    """The first picture (3, H, W) with all groups of like patches shrunk in 3-D, averaged by their weights."""
    channels, height, width = pictures[0].shape
    inside = (torch.arange(_PATCH)[:, None] * width + torch.arange(_PATCH)).flatten()
    cosines = torch.kron(_cosines(), _cosines())
    window = torch.kaiser_window(_PATCH, periodic=False, beta=2.0)
    window = torch.outer(window, window).flatten()
    total, weights = torch.zeros(2, channels, height * width).unbind(0)
    for some in (part for group in groups for part in group.split(_AT_ONCE // group.shape[1])):
        along = _hadamard(some.shape[1])
        pixels = some[..., None] + inside  # (G, K, 64)
        spectra = [along @ (each.flatten(1)[:, pixels] @ cosines.T) for each in pictures]  # (3, G, K, 64)
        shrunk, weight = shrink(spectra)
        patches = (along.T @ shrunk) @ cosines
        spread = (weight * window).expand_as(patches)
        total.index_add_(1, pixels.flatten(), (patches * spread).flatten(1))
        weights.index_add_(1, pixels.flatten(), spread.flatten(1))
    return (total / weights).view(channels, height, width)


def _cosines() -> Tensor:
    """The orthonormal DCT-II of a patch's edge."""
    place = torch.arange(_PATCH, dtype=torch.float64)
    matrix = torch.cos(math.pi / _PATCH * (place + 0.5) * place[:, None]) * (2 / _PATCH) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.float()


def _hadamard(size: int) -> Tensor:
    """Orthonormal Walsh-Hadamard matrix of a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / size**0.5
