"""The outputs of a frozen text encoder for every caption, computed once and kept on disk while the denoiser trains."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from conditioning.bundle import Conditioning
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.shards import Shard, ShardCache, cut_into_shards
from ldm.engine.precision import best_dtype
from ldm.progress import Progress, silent

CACHE_TEXT = ("auto", "true", "false")
_BATCH = 64


class TextStates:
    """Token states and pooled states by caption, from disk; of a caption that is not there, from the encoder.

    Args:
        text: frozen; the cache belongs to these weights and tokens, and is made anew for others.
        captions: all that are kept; the empty one, for guidance, is added.
        cache: folder that keeps them.
        device: where those that are missing are encoded.
        progress: of the encoding.

    Raises:
        OSError: the disk has no room for them.
    """

    def __init__(
        self,
        text: TextEncoder,
        captions: Sequence[str],
        cache: Path,
        device: torch.device | str = "cpu",
        progress: Progress = silent,
    ) -> None:
        self._text = text
        known = sorted({"", *captions})
        self._number = {caption: number for number, caption in enumerate(known)}
        shards = cut_into_shards(np.zeros(len(known), np.int64), [caption_bytes(text)])

        def make(shard: Shard) -> dict[str, torch.Tensor]:
            parts = []
            for start in range(0, len(shard.ids), _BATCH):
                batch = [known[number] for number in shard.ids[start : start + _BATCH]]
                parts.append(encode_captions(text, batch, torch.device(device)).to("cpu"))
            conditioning = Conditioning.cat(parts)
            assert conditioning.tokens is not None and conditioning.pooled is not None
            return {"tokens": conditioning.tokens, "pooled": conditioning.pooled}

        folder = cache / f"text-{_fingerprint(text, known)}"
        self._cache = ShardCache(folder, shards, make, "states of captions", progress)

    def encode(self, captions: Sequence[str], device: torch.device) -> Conditioning:
        """The token states as `encode_captions` gives them, to rounding."""
        if not all(caption in self._number for caption in captions):
            return encode_captions(self._text, captions, device)
        rows = [self._cache.row(self._number[caption]) for caption in captions]
        with torch.autocast("cpu", enabled=False):  # on CPUs autocast to bf16 cannot stack fp16
            conditioning = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return Conditioning(**conditioning).to(device)


@torch.no_grad()
def encode_captions(text: TextEncoder, captions: Sequence[str], device: torch.device) -> Conditioning:
    """Captions -> `Conditioning(tokens=(B, L, D), pooled=(B, P))`, fp16, on `device`, where the encoder is moved to.

    The only way from captions to states in the denoiser's training: cached states are these, and live ones are rounded
    alike. The arithmetic is in the type that the device is fast at, whatever autocast surrounds it.
    """
    text.to(device)
    dtype = best_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        conditioning = text.encode(captions)
    return conditioning.to(dtype=torch.float16)


def caption_bytes(text: TextEncoder) -> int:
    """Bytes of one caption on disk: L x D token states and the pooled state, two bytes a number."""
    return 2 * (text.length * text.widths.tokens + text.widths.pooled)


def _fingerprint(text: TextEncoder, captions: Sequence[str]) -> str:
    """A name for what `text` says of `captions`: other weights, tokens or captions have another one."""
    return hashlib.sha256("\0".join([text.fingerprint, *captions]).encode()).hexdigest()[:16]
