"""Pixels that are missing, filled from around; and salt and pepper, found first."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.evaluation.restoration.filters import median
from ldm.tasks.impulses import median_fill

_RADIUS = 3.0


def struck(picture: Tensor, window: int, apart: float) -> Tensor:
    """Which pixels (H, W) are salt or pepper: wholly white or black, and `apart` from the median of their window."""
    end = (picture <= 0).all(0) | (picture >= 1).all(0)
    away = (picture - median(picture, window)).abs().amax(0) > apart
    return end & away


def detect_and_fill(picture: Tensor, window: int, apart: float, fill: str = "median") -> Tensor:
    """Salt and pepper found and filled; all other pixels keep their bytes.

    Args:
        picture: (3, H, W) in [0, 1].
        window: see `struck`.
        apart: likewise.
        fill: median (of what is known near by), biharmonic or telea.
    """
    mask = struck(picture, window, apart)
    if not mask.any():
        return picture
    if mask.all():
        raise ValueError("every pixel is salt or pepper; nothing is left to fill from")
    return {"median": median_fill, "biharmonic": biharmonic, "telea": telea}[fill](picture, mask)


def harmonic(picture: Tensor, mask: Tensor) -> Tensor:
    """Missing pixels are the mean of their four neighbours (Laplace's equation), solved exactly."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    _check(mask)
    pixels = picture.double().numpy().copy()
    holes: NDArray[Any] = mask.numpy()
    number = np.cumsum(holes).reshape(holes.shape) - 1
    rows, columns, values = [], [], []
    known = np.zeros((int(holes.sum()), len(pixels)))
    for y, x in np.argwhere(holes):
        around = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        around = [(v, u) for v, u in around if 0 <= v < holes.shape[0] and 0 <= u < holes.shape[1]]
        own = number[y, x]
        for column, value in [(own, float(len(around)))] + [(number[p], -1.0) for p in around if holes[p]]:
            rows.append(own)
            columns.append(column)
            values.append(value)
        for v, u in around:
            if not holes[v, u]:
                known[own] += pixels[:, v, u]
    matrix = coo_matrix((values, (rows, columns))).tocsr()
    pixels[:, holes] = np.asarray(spsolve(matrix, known)).reshape(known.shape).T
    return torch.from_numpy(pixels).float().clamp(0, 1)


def biharmonic(picture: Tensor, mask: Tensor) -> Tensor:
    """Missing pixels continue values and slopes from around (Damelin and Hoang 2018)."""
    from skimage.restoration import inpaint_biharmonic

    _check(mask)
    pixels = picture.permute(1, 2, 0).double().numpy()
    filled = inpaint_biharmonic(pixels, mask.numpy(), channel_axis=-1)
    return torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)


def telea(picture: Tensor, mask: Tensor) -> Tensor:
    """Telea's fast marching (2004), of OpenCV."""
    return _opencv(picture, mask, "INPAINT_TELEA")


def navier_stokes(picture: Tensor, mask: Tensor) -> Tensor:
    """Bertalmio's fluid dynamics (2001), of OpenCV."""
    return _opencv(picture, mask, "INPAINT_NS")


def has_opencv() -> bool:
    """Whether OpenCV is installed."""
    from importlib.util import find_spec

    return find_spec("cv2") is not None


def _opencv(picture: Tensor, mask: Tensor, way: str) -> Tensor:
    if not has_opencv():
        raise ValueError("telea and navier_stokes need OpenCV; pip install 'ldm[restoration]'")
    import cv2

    _check(mask)
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    filled = cv2.inpaint(np.ascontiguousarray(pixels), mask.byte().numpy() * 255, _RADIUS, getattr(cv2, way))
    return torch.from_numpy(filled).permute(2, 0, 1) / 255


def _check(mask: Tensor) -> None:
    if mask.all():
        raise ValueError("the mask covers the whole picture; leave at least one pixel to fill from")
