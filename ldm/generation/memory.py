"""Whether pictures fit into memory, known before any is begun."""

import math
from typing import TYPE_CHECKING

import torch

from ldm.generation.vae_memory import VaeMemory
from ldm.io.disk.files import size_in_words

if TYPE_CHECKING:
    from ldm.families.parts import ModelParts

_FLOAT = 4
_COPIES = 2  # of the finished pictures in fp32: decoded batch by batch, then joined


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

    Decoding needs at least what `VaeMemory.at_least` says. All finished pictures of a call are held.

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
    vae = VaeMemory(parts.autoencoder, parts.latent_format.factor, device)
    cell = vae.factor * enlarged
    tiling = vae.tiling((size[0] // cell, size[1] // cell), gigabytes)
    pixels, per_pixel = size[0] * size[1], 3 * _FLOAT * _COPIES

    def decoding_of(pixels: float) -> float:
        if tiling is None:
            return vae.at_least(pixels / enlarged**2)
        return vae.at_least_of_a_tile(min(pixels / enlarged**2, (tiling.size * vae.factor) ** 2))

    decoding, finished = decoding_of(pixels), pixels * per_pixel
    if decoding + finished > free:
        largest: float = pixels
        for _ in range(2):  # maps of very large pictures are fewer
            largest = min(largest, largest * free / (decoding_of(largest) + largest * per_pixel))
        if tiling is not None:  # decoding takes no more then, so the rest is for finished pictures
            largest = max(largest, (free - decoding) / per_pixel)
        side = int(math.sqrt(largest))
        raise ValueError(
            f"width={size[1]} and height={size[0]} need more than {size_in_words(decoding + finished)} of memory, and"
            f" {size_in_words(free)} are free; use less than {side} x {side} pixels"
        )
    together = together if tiling is None else 1
    if together * decoding > free:
        raise ValueError(
            f"batch_size={together} needs more than {size_in_words(together * decoding)} of memory, and"
            f" {size_in_words(free)} are free; use {int(free / decoding)} or less"
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
