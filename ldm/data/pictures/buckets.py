"""Pictures of any shape in a few shapes of about equal area, so that hardly anything is cut off.

As NovelAI trained Stable Diffusion ("NovelAI improvements on Stable Diffusion", 2022) and SDXL was (Podell et al. 2023,
section 2.3).
"""

from dataclasses import dataclass

import numpy as np

_LEAST_AREA = 0.8
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class BucketConfig:
    """Which shapes pictures may have. All have at most the area of a square of the data's size.

    Attributes:
        step: edges are multiples of it, in pixels; 0 leaves all pictures square. Small steps cut off less and make
            more shapes: an eighth or a sixteenth of the size is a good one, a multiple of the autoencoder's factor.
        min_edge, max_edge: shortest and longest edge, in pixels; 0 takes half and twice the size.
    """

    step: int = 0
    min_edge: int = 0
    max_edge: int = 0

    def __post_init__(self) -> None:
        for name in ("step", "min_edge", "max_edge"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.buckets.{name}={getattr(self, name)} is negative; use 0 or more")
        if not self.step and (self.min_edge or self.max_edge):
            raise ValueError("data.buckets.step=0 makes squares, whose edges are data.size; name a step, e.g. 64")


def bucket_shapes(size: int, config: BucketConfig) -> np.ndarray:
    """Heights and widths of all buckets, from the tallest to the widest: int (K, 2); the square alone for `step=0`.

    Every shape whose edges are multiples of the step and whose area is 80 % to 100 % of the square's.

    Args:
        size: edge of the square whose area is not exceeded, in pixels.
        config: step of the edges and longest shape.

    Raises:
        ValueError: no shape is possible, or the square is not one of them.
    """
    if not config.step:
        return np.array([[size, size]])
    step, least, most = config.step, config.min_edge or size // 2, config.max_edge or 2 * size
    if size % step:
        lower = max(size // step, 1) * step
        raise ValueError(
            f"data.size={size} is not a multiple of data.buckets.step={step}; use {lower} or {lower + step}"
        )
    if not least <= size <= most:
        raise ValueError(f"data.buckets.min_edge={least} to max_edge={most} leaves out the square of data.size={size}")
    edges = np.arange(-(-least // step) * step, most + 1, step)
    shapes = np.stack(np.meshgrid(edges, edges, indexing="ij"), -1).reshape(-1, 2)
    area = shapes.prod(1) / size**2
    shapes = shapes[(area >= _LEAST_AREA) & (area <= 1)]
    return shapes[np.argsort(shapes[:, 1] / shapes[:, 0], kind="stable")]


def assign(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The bucket of each picture: the one that cuts off the smallest share of it; the square if its size is unknown.

    Args:
        sizes: heights and widths of the pictures before any scaling, (N, 2); 0 where unknown.
        shapes: of the buckets, (K, 2), as `bucket_shapes` gives them.

    Returns:
        Numbers of buckets, (N,); of two that cut off equally much, the one of the larger area.
    """
    by_area = np.argsort(-shapes.prod(1), kind="stable")
    best = np.empty(len(sizes), dtype=np.int64)
    for start in range(0, len(sizes), _AT_ONCE):
        cut = cut_off(sizes[start : start + _AT_ONCE, None], shapes[by_area])
        best[start : start + _AT_ONCE] = by_area[cut.argmin(1)]
    best[(sizes <= 0).any(1)] = np.abs(np.log(shapes[:, 0] / shapes[:, 1])).argmin()
    return best


def cut_off(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The share of a picture's area that is lost when it is scaled to just cover a shape: in [0, 1).

    Args:
        sizes: heights and widths of pictures, (..., 2); 0 where unknown, which loses nothing.
        shapes: heights and widths, (..., 2), broadcast against `sizes`.
    """
    ratio = np.where(sizes > 0, sizes, 1) / shapes
    lost = 1 - ratio.min(-1) / ratio.max(-1)
    return np.where((sizes > 0).all(-1), lost, 0.0)
