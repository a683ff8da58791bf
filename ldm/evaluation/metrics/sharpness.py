"""How sharp pictures are, and how clean what should be flat: gradients of luminance beside those of real pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldm.evaluation.metrics.estimate import Estimate

STEEPEST = 0.02
_LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601
_WEAK = (0.99, 8.01)  # whole steps of 8 bits, which are frequent, must not hang on the last bit of a sum


@dataclass(frozen=True)
class Gradients:
    """Of every picture (N,), what its luminance does from one pixel to the next.

    Attributes:
        steepest: mean of the steepest 2 % of the gradients' magnitudes, black to white being 1.
        weak: share of the pixels whose gradient is weak but not flat, 1/255 to 8/255: shades, and blotches.
    """

    steepest: np.ndarray
    weak: np.ndarray

    @classmethod
    def of(cls, images: Tensor) -> "Gradients":
        """Pictures (N, 3, H, W) in [-1, 1], of any size from 2 x 2, taken as their 8-bit values.

        A gradient is the difference to the pixel on the right and to that below.

        Raises:
            ValueError: pictures are too small to have a gradient.
        """
        height, width = images.shape[-2:]
        if min(height, width) < 2:
            raise ValueError(f"pictures of {width} x {height} px have no gradient; use 2 x 2 or more")
        rows = [_measured(image) for image in images]
        return cls(np.array([steep for steep, _ in rows]), np.array([weak for _, weak in rows]))

    @classmethod
    def join(cls, some: "Sequence[Gradients]") -> "Gradients":
        """Those of several batches of pictures."""
        return cls(np.concatenate([one.steepest for one in some]), np.concatenate([one.weak for one in some]))


def _measured(image: Tensor) -> tuple[float, float]:
    levels = ((image.double() + 1) * 127.5).round().clamp(0, 255)
    luma = (levels * levels.new_tensor(_LUMA)[:, None, None]).sum(0)
    across, down = luma.diff(dim=1)[:-1], luma.diff(dim=0)[:, :-1]
    sizes = torch.hypot(across, down).flatten()
    steepest = sizes.topk(max(1, round(STEEPEST * len(sizes)))).values.mean() / 255
    weak = ((sizes >= _WEAK[0]) & (sizes <= _WEAK[1])).double().mean()
    return float(steepest), float(weak)


def edge(pictures: Gradients, real: Gradients) -> Estimate | None:
    """Mean of the steepest gradients over that of the real pictures of the same prompts: 1 is as sharp as they are.

    None where the real pictures have no gradient at all.
    """
    return Estimate.ratio(pictures.steepest, real.steepest)


def blotch(pictures: Gradients, real: Gradients) -> Estimate | None:
    """Share of weak gradients beyond that of real pictures of the same prompts, in percentage points: 0 is clean."""
    return Estimate.mean(100 * (pictures.weak - real.weak))


@dataclass(frozen=True)
class Sharpness:
    """Pictures beside real ones of the same prompts, all at `size` px.

    Attributes:
        edge, blotch: of the pictures.
        autoencoded_edge, autoencoded_blotch: of the real ones, encoded and decoded as the model does (its upscaler
            included): the best that a denoiser can reach.
        real_steepest, real_weak: of the real ones: steepest gradients with black to white being 1, and weak ones in %.
    """

    size: int
    edge: Estimate | None
    blotch: Estimate | None
    autoencoded_edge: Estimate | None
    autoencoded_blotch: Estimate | None
    real_steepest: float
    real_weak: float

    @classmethod
    def of(cls, size: int, pictures: Gradients, real: Gradients, autoencoded: Gradients) -> "Sharpness":
        """Of N pictures and N real ones; the autoencoded are the first of the real ones."""
        count = len(autoencoded.weak)
        first = Gradients(real.steepest[:count], real.weak[:count])
        return cls(
            size=size,
            edge=edge(pictures, real),
            blotch=blotch(pictures, real),
            autoencoded_edge=edge(autoencoded, first),
            autoencoded_blotch=blotch(autoencoded, first),
            real_steepest=float(real.steepest.mean()),
            real_weak=100 * float(real.weak.mean()),
        )
