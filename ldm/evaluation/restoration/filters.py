"""Classical filters on a picture (3, H, W) in [0, 1], fp32; each gives another one of its size.

Those for noise of known strength take its standard deviation in [0, 1] of white.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.degradation.operations import Blur


def median(picture: Tensor, size: int) -> Tensor:
    """The median of `size` x `size` pixels, channel by channel; edges are continued by their own pixels."""
    reach = size // 2
    padded = F.pad(picture[None], (reach,) * 4, mode="replicate")[0]
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).flatten(3)
    return windows.median(-1).values


def bilateral(picture: Tensor, sd_colour: float, sd_space: float) -> Tensor:
    """Means of near pixels of near colours (Tomasi and Manduchi 1998).

    Args:
        picture: with noise.
        sd_colour: of the weights by the distance of colours, all channels together.
        sd_space: of the weights by the distance in pixels.
    """
    height, width = picture.shape[1:]
    reach = math.ceil(2.5 * sd_space)
    padded = F.pad(picture[None], (reach,) * 4, mode="replicate")[0]
    total, weights = torch.zeros_like(picture), torch.zeros_like(picture[:1])
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            other = padded[:, reach + down : reach + down + height, reach + right : reach + right + width]
            apart = (other - picture).square().sum(0, keepdim=True)
            weight = torch.exp(-apart / (2 * sd_colour**2) - (down**2 + right**2) / (2 * sd_space**2))
            total, weights = total + weight * other, weights + weight
    return total / weights


def total_variation(picture: Tensor, weight: float) -> Tensor:
    """The nearest picture of small total variation (Rudin et al. 1992), by Chambolle's projections (2004)."""
    from skimage.restoration import denoise_tv_chambolle

    return _through(picture, lambda x: denoise_tv_chambolle(x, weight, eps=1e-5, max_num_iter=300, channel_axis=-1))


def non_local_means(picture: Tensor, sd: float, strength: float, patch: int = 5, reach: int = 9) -> Tensor:
    """Means of pixels in like surroundings (Buades et al. 2005).

    Args:
        picture: with noise.
        sd: of its noise.
        strength: how unlike surroundings may be, in `sd`.
        patch: edge of the surroundings.
        reach: how far they are looked for.
    """
    from skimage.restoration import denoise_nl_means

    padded = max(patch, 2)
    wide = F.pad(picture[None], (padded,) * 4, mode="replicate")[0]
    cleaned = _through(wide, lambda x: denoise_nl_means(x, patch, reach, strength * sd, True, sd, channel_axis=-1))
    return cleaned[:, padded:-padded, padded:-padded]


def wiener(picture: Tensor, blur: Blur, balance: float) -> Tensor:
    """A blur undone: Wiener's filter with a Laplacian as the prior (Hunt 1973).

    Args:
        picture: blurred, with noise.
        blur: what it was blurred by.
        balance: how smooth the result is.
    """
    kernel = blur.kernel()
    margin = 2 * (len(kernel) // 2)
    wide = F.pad(picture[None], (margin,) * 4, mode="replicate")[0].double()
    transfer = _transfer(kernel, wide.shape[1:])
    laplacian = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)
    roughness = _transfer(laplacian, wide.shape[1:]).abs().square()
    inverse = transfer.conj() / (transfer.abs().square() + balance * roughness)
    inverse[0, 0] = 1  # means stay
    restored = torch.fft.irfft2(torch.fft.rfft2(wide) * inverse, s=wide.shape[1:])
    return restored[:, margin:-margin, margin:-margin].float().clamp(0, 1)


def richardson_lucy(picture: Tensor, blur: Blur, steps: int) -> Tensor:
    """A blur undone by the multiplicative steps of Richardson (1972) and Lucy (1974)."""
    margin = 2 * (len(blur.kernel()) // 2)
    observed = F.pad(picture[None], (margin,) * 4, mode="replicate")[0].clamp(min=1e-3)
    unused = torch.Generator()
    estimate = observed.clone()
    for _ in range(steps):  # the kernel is symmetric about its middle, so the blur is its own adjoint
        estimate = estimate * blur.apply(observed / blur.apply(estimate, unused).clamp(min=1e-3), unused)
    return estimate[:, margin:-margin, margin:-margin].clamp(0, 1)


def bicubic(picture: Tensor, height: int, width: int) -> Tensor:
    """Enlarged by cubic splines (Keys 1981)."""
    return F.interpolate(picture[None], (height, width), mode="bicubic")[0].clamp(0, 1)


def lanczos(picture: Tensor, height: int, width: int) -> Tensor:
    """Enlarged by Lanczos' window of three lobes, as Pillow has it."""
    from PIL import Image

    channels = (Image.fromarray(channel.numpy()) for channel in picture)
    rows = [np.array(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return torch.from_numpy(np.stack(rows)).clamp(0, 1)


def _transfer(kernel: Tensor, size: torch.Size) -> Tensor:
    """The kernel's response to every frequency of rfft2, its middle at the origin."""
    spread = torch.zeros(size, dtype=torch.float64)
    spread[: kernel.shape[0], : kernel.shape[1]] = kernel
    reach = kernel.shape[0] // 2
    return torch.fft.rfft2(spread.roll((-reach, -reach), (0, 1)))


def _through(picture: Tensor, filter_: Callable[[NDArray[Any]], NDArray[Any]]) -> Tensor:
    """A filter of scikit-image, which has channels last and float64."""
    pixels = picture.permute(1, 2, 0).double().numpy()
    return torch.from_numpy(np.ascontiguousarray(filter_(pixels))).permute(2, 0, 1).float()
