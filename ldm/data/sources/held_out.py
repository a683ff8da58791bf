"""Splits a share off a source that is never trained on, where the source has no held-out split itself."""

import hashlib

import numpy as np

from ldm.data.sources.source import Part, Source

_FEW = 4


def split_by_key(source: Source, share: float) -> tuple[Part, Part]:
    """The pictures to train on and the held-out ones.

    Which side a picture is on depends on the sha256 of its key alone, so it stays there when pictures come and go. Of
    few pictures the ones with the smallest hashes are held out, four or a quarter of them; a single one is on both
    sides.

    Args:
        source: the pictures.
        share: of held-out pictures, in (0, 1).
    """
    places = np.array([_place(source.key(i)) for i in range(len(source))])
    held_out = places < share
    least = max(1, min(_FEW, len(source) // _FEW))
    if held_out.sum() < least:
        held_out[places.argsort(kind="stable")[:least]] = True
    if held_out.all():
        held_out[places.argmax()] = False
    train = np.flatnonzero(~held_out)
    kept = np.flatnonzero(held_out)
    return Part(source, train), Part(source, kept if len(kept) else train)


def _place(key: str) -> float:
    """A number in [0, 1) for a key, spread evenly."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
