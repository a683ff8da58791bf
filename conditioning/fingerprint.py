"""Hashes of networks, so that cached results of one network are not used for another."""

from typing import Protocol

from torch import nn


class Hash(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


def digest_weights(digest: Hash, module: nn.Module) -> None:
    """Let a hash depend on every weight of a module."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
