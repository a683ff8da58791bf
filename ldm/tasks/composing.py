"""From a picture to what a model can take, and from its output back into the picture, byte by byte where it is kept."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def frame(values: Tensor, multiple: int) -> Tensor:
    """Numbers (C, H, W) continued by their mirror image, right and below, to multiples of a number of pixels."""
    height, width = values.shape[1:]
    rows, columns = (_mirrored(edge, framed(edge, multiple)) for edge in (height, width))
    return values[:, rows][:, :, columns]


def framed(edge: int, multiple: int) -> int:
    """The next multiple that is no smaller."""
    return -(-edge // multiple) * multiple


def unframe(values: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `frame`, for the last two dimensions: cut to height and width."""
    return values[..., : size[0], : size[1]]


def _mirrored(edge: int, length: int) -> Tensor:
    """Where each of `length` cells lies in a line of `edge` that is mirrored at its ends as often as needed."""
    cells = torch.arange(length) % max(1, 2 * edge - 2)
    return torch.where(cells >= edge, 2 * edge - 2 - cells, cells).clamp(min=0)


def cover(mask: Tensor, factor: int, reach: int = 1) -> Tensor:
    """The cells of a latent that a mask touches: the greatest value in each, and `reach` cells further.

    No stroke is too thin to count, and cells beside it, of which the autoencoder spreads into it, count too.

    Args:
        mask: (H, W) in [0, 1], multiples of the factor.
        factor: pixels per cell.
        reach: cells that are added around.

    Returns:
        (h, w).
    """
    cells = F.max_pool2d(mask[None, None].float(), factor)
    return F.max_pool2d(cells, 2 * reach + 1, stride=1, padding=reach)[0, 0]


def feathered(mask: Tensor, pixels: int) -> Tensor:
    """A mask (H, W) whose edge rises over so many pixels on its own side: where it was 0 it stays 0."""
    steps = [mask[None, None].float()]
    for _ in range(pixels):
        steps.append(-F.max_pool2d(-steps[-1], 3, stride=1, padding=1))
    return torch.stack(steps).mean(0)[0, 0]


def compose(original: NDArray[Any], output: NDArray[Any], mask: Tensor) -> NDArray[Any]:
    """Output where the mask is 1, the original's very bytes where it is 0, and between, a mix weighted by alpha.

    Args:
        original: (H, W, C) of uint8 or uint16.
        output: likewise.
        mask: (H, W) in [0, 1].
    """
    weight = mask.cpu().numpy()[..., None]
    result = np.where(weight > 0, output, original)
    between = ((weight > 0) & (weight < 1))[..., 0]
    if between.any():
        share, first, second = (each[between].astype(np.float64) for each in (weight, original, output))
        result[between] = _mix(first, second, share, original.shape[2] in (2, 4)).round().astype(original.dtype)
    return result


def _mix(first: NDArray[Any], second: NDArray[Any], share: NDArray[Any], has_alpha: bool) -> NDArray[Any]:
    """(1 - share) first + share second of pixels (N, C), colours premultiplied by their alpha if they have one."""
    if not has_alpha:
        return (1 - share) * first + share * second
    alphas = (1 - share) * first[:, -1:], share * second[:, -1:]
    alpha = alphas[0] + alphas[1]
    colours = alphas[0] * first[:, :-1] + alphas[1] * second[:, :-1]
    plain = (1 - share) * first[:, :-1] + share * second[:, :-1]
    return np.concatenate([np.where(alpha > 0, colours / np.maximum(alpha, 1e-9), plain), alpha], axis=1)


def heal(original: Tensor, output: Tensor, mask: Tensor) -> Tensor:
    """The output, shifted smoothly inside the mask so that its colours meet the original's all along the edge.

    What is added is harmonic inside: the difference on the edge, continued as a soap film (Perez et al. 2003, "Poisson
    image editing"). It is solved from coarse to fine, so a mask of any size costs a few passes over its pixels.

    Args:
        original: (3, H, W).
        output: likewise.
        mask: (H, W); above 0 the output counts.

    Returns:
        (3, H, W), the output outside the mask's box.
    """
    inside = mask > 0
    if not bool(inside.any()) or bool(inside.all()):
        return output
    rows, columns = (_stretch(inside.any(axis)) for axis in (1, 0))
    part = (..., rows, columns)
    film = _film((original - output)[part][None].float(), inside[part][None, None])[0]
    result = output.clone()
    result[part] = torch.where(inside[part], output[part] + film, output[part])
    return result


def _stretch(touched: Tensor) -> slice:
    """From the first to the last that is touched, and one more on either side."""
    places = touched.nonzero()
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2)


def _film(known: Tensor, inside: Tensor) -> Tensor:
    """Numbers (1, C, H, W) with what is inside made harmonic; nothing flows over the picture's own border."""
    height, width = inside.shape[2:]
    weight = (~inside).float()
    if max(height, width) > 4 and bool(inside.any()):
        total = F.avg_pool2d(F.pad(weight, (0, width % 2, 0, height % 2)), 2)
        sums = F.avg_pool2d(F.pad(known * weight, (0, width % 2, 0, height % 2)), 2)
        coarse = _film(sums / total.clamp(min=1e-6), total == 0)
        film = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    else:
        film = (known * weight).sum((2, 3), keepdim=True) / weight.sum().clamp(min=1e-6)
    film = torch.where(inside, film, known)
    for _ in range(_SWEEPS):
        edged = F.pad(film, (1, 1, 1, 1), mode="replicate")
        mean = (edged[..., :-2, 1:-1] + edged[..., 2:, 1:-1] + edged[..., 1:-1, :-2] + edged[..., 1:-1, 2:]) / 4
        film = torch.where(inside, mean, known)
    return film


_SWEEPS = 24
"""Averagings at each size; what they leave is smooth, and the next coarser size has taken it away."""
