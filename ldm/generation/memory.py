"""Whether pictures fit into memory, known before any is begun."""

import math
from typing import TYPE_CHECKING

import torch

from autoencoder.build import Autoencoder
from autoencoder.tiles import Tiling
from ldm.io.disk.files import size_in_words

if TYPE_CHECKING:
    from ldm.families.parts import ModelParts

VAE_MEMORY = 4.0
"""GB that decoding may take before it goes tile by tile: 1,024 px a side for decoders of Stable Diffusion's size."""

_LEAST_TILE = 16
"""Cells; the edges of smaller tiles would show."""

_MAPS = 2.4  # of the two finest widths, at full size: measured for Stable Diffusion's decoder
_FLOAT = 4
_COPIES = 2  # of the finished pictures in fp32: decoded batch by batch, then joined


def tiling_for(
    autoencoder: Autoencoder, factor: int, cells: tuple[int, int], gigabytes: float, wraps: tuple[bool, bool]
) -> Tiling | None:
    """How a picture goes through an autoencoder in tiles; None where all of it fits the memory it may take.

    Args:
        autoencoder: which encodes or decodes.
        factor: pixels per cell of its latents.
        cells: height and width of the latents.
        gigabytes: that it may take, 1e9 bytes each.
        wraps: along which axes the picture goes round.
    """
    pixels = gigabytes * 1e9 / _bytes_per_pixel(autoencoder)
    if cells[0] * cells[1] * factor**2 <= pixels:
        return None
    size = max(int(math.sqrt(pixels)) // factor, _LEAST_TILE)
    return None if max(cells) <= size else Tiling(size, size // 4, wraps)


def smaller_budget(
    autoencoder: Autoencoder, factor: int, cells: tuple[int, int], gigabytes: float, wraps: tuple[bool, bool]
) -> float | None:
    """The memory, in GB, in which tiles have half the side that they have now; None where there are no smaller ones.

    Args:
        autoencoder: which encodes or decodes.
        factor: pixels per cell of its latents.
        cells: height and width of the latents.
        gigabytes: that it may take now.
        wraps: along which axes the picture goes round.
    """
    tiling = tiling_for(autoencoder, factor, cells, gigabytes, wraps)
    size = math.isqrt(cells[0] * cells[1]) if tiling is None else tiling.size
    if size <= _LEAST_TILE:
        return None
    side = (max(size // 2, _LEAST_TILE) + 0.5) * factor  # half a cell more, so that rounding takes none away
    return side**2 * _bytes_per_pixel(autoencoder) / 1e9


def _bytes_per_pixel(autoencoder: Autoencoder) -> float:
    return _MAPS * sum(autoencoder.config.widths[:2]) * next(autoencoder.parameters()).element_size()


def check_memory(
    parts: "ModelParts",
    device: torch.device,
    count: int,
    together: int,
    size: tuple[int, int],
    enlarged: int,
    gigabytes: float = math.inf,
) -> None:
    """Refuse what this machine cannot hold, by what is certainly needed: less than what really is.

    Decoding needs at least the maps on both sides of the decoder's last change of width, at full size. All finished
    pictures of a call are held.

    Args:
        parts: the model.
        device: that decodes.
        count: pictures of the call.
        together: that are decoded at once.
        size: height and width of the finished picture, in pixels.
        enlarged: how much larger that is than what the autoencoder decodes.
        gigabytes: that decoding may take before it goes tile by tile.

    Raises:
        ValueError: names the setting to make smaller, and the largest that fits.
    """
    free = free_memory(device)
    if free is None:
        return
    pixels = size[0] * size[1]
    widths = parts.autoencoder.config.widths[:2]
    stored = next(parts.autoencoder.parameters()).element_size()
    factor = parts.latent_format.factor
    cells = size[0] // (factor * enlarged), size[1] // (factor * enlarged)
    tiling = tiling_for(parts.autoencoder, factor, cells, gigabytes, (False, False))
    at_once = pixels // enlarged**2
    if tiling is not None:
        at_once, together = min(at_once, (tiling.size * factor) ** 2), 1
    decoding = at_once * sum(widths) * stored
    finished = pixels * 3 * _FLOAT * _COPIES
    if decoding + finished > free:
        largest = pixels * free / (pixels // enlarged**2 * sum(widths) * stored + finished)
        if tiling is not None:  # decoding takes no more then, so the rest is for finished pictures
            largest = max(largest, pixels * (free - decoding) / finished)
        side = int(math.sqrt(largest))
        raise ValueError(
            f"width={size[1]} and height={size[0]} need more than {size_in_words(decoding + finished)} of memory, and"
            f" {size_in_words(free)} are free; use less than {side} x {side} pixels"
        )
    if together * decoding > free:
        raise ValueError(
            f"batch_size={together} needs more than {size_in_words(together * decoding)} of memory, and"
            f" {size_in_words(free)} are free; use {free // decoding} or less"
        )
    if count * finished > free:
        raise ValueError(
            f"{count:,} pictures in one call need more than {size_in_words(count * finished)} of memory, and"
            f" {size_in_words(free)} are free; draw {free // finished:,} at a time"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still get on a device; None where nothing says so."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu":
        return None
    import psutil

    return int(psutil.virtual_memory().available + psutil.swap_memory().free)
