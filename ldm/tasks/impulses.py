"""Salt and pepper: which pixels were struck, and what lies around them put in their place."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.tasks.picture import Picture

_APART = 16 / 255
_NEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]])[None, None]


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
    """Missing pixels (H, W) of rgb (3, H, W) become the mean of the known ones in 3 x 3, and so on inwards.

    Raises:
        ValueError: all are missing.
    """
    if missing.all():
        raise ValueError("every pixel is salt or pepper; nothing is left to fill from")
    known = (~missing).float()[None, None]
    values = rgb[:, None] * known
    while not known.all():
        weight = F.conv2d(known, _NEAR, padding=1)
        mean = F.conv2d(values, _NEAR, padding=1) / weight.clamp(min=1)
        now = (known == 0) & (weight > 0)
        values, known = torch.where(now, mean, values), known + now
    return values[:, 0]
