"""Hashes of networks, so that what was computed with one is not taken for another's."""

from typing import Protocol

from torch import nn


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


def digest_weights(digest: Hash, module: nn.Module) -> None:
    """Let a hash depend on every weight of a module."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
