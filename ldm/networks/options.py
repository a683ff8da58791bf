"""What one call of a denoising network takes besides the noisy latent, the time and the `Conditioning`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.networks.attention import AttentionHook
from ldm.networks.hooks import HookPerPart


@dataclass(frozen=True, eq=False)
class Residuals:
    """Features that a side network (ControlNet) adds.

    Attributes:
        down: one (B, C, h, w) per skip connection, finest first.
        mid: of the middle block, (B, C, h, w).
    """

    down: tuple[Tensor, ...]
    mid: Tensor

    def __getitem__(self, rows: slice) -> "Residuals":
        """Those of some samples of the batch."""
        return Residuals(tuple(skip[rows] for skip in self.down), self.mid[rows])


class FeatureReuse(Protocol):
    """Stands between a network's shallow blocks and the deep part that they enclose, in one call of the network."""

    @property
    def depth(self) -> int:
        """How many blocks and samplings run before the deep part; one more block runs after it."""

    def __call__(self, before: Tensor, x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
        """What the deep part gives, computed or remembered.

        Args:
            before: the map (B, C, h, w) that the first block is given.
            x: the map that the deep part is given.
            deep: computes the deep part.
        """


@dataclass(frozen=True)
class NetworkOptions:
    """The options of one call of a network, or of one of several passes that are run as one batch.

    A new option is a field here with what becomes of it in `cat` and `[rows]`, and its place in the network. Engines
    and guidance hand the record on as it is; an engine says by `hosts` which fields its networks take.

    Attributes:
        residuals: what a side network adds to the skip connections and to the middle's output.
        hook: computes every attention in the layer's place.
        reuse: computes the deep part, or remembers it; of the whole batch. Residuals and it exclude each other.
    """

    residuals: Residuals | None = None
    hook: AttentionHook | None = None
    reuse: FeatureReuse | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are not None."""
        return tuple(name for name, value in vars(self).items() if value is not None)

    def __getitem__(self, rows: slice) -> "NetworkOptions":
        """Those of some samples of the batch; hooks stay as they are."""
        return self if self.residuals is None else NetworkOptions(self.residuals[rows], self.hook, self.reuse)

    @staticmethod
    def cat(parts: Sequence["NetworkOptions"]) -> "NetworkOptions":
        """The options of the joint batch of several passes of the same size B.

        Args:
            parts: one per pass. A pass without residuals gets zeros, one without a hook the layers' own attention.

        Raises:
            ValueError: a part has `reuse`.
        """
        if len(parts) == 1:
            return parts[0]
        if any(part.reuse is not None for part in parts):
            raise ValueError("reuse is of a whole batch, and a part of it has one; give it to the joint call")
        hooks = tuple(part.hook for part in parts)
        return NetworkOptions(
            _cat_residuals([part.residuals for part in parts]),
            None if all(hook is None for hook in hooks) else HookPerPart(hooks),
        )


IN_WORDS = {"residuals": "residuals", "hook": "attention hooks", "reuse": "feature caches"}
"""The options, for messages."""
EVERY = frozenset(IN_WORDS)
"""Names of all options."""
PLAIN = NetworkOptions()
"""No option: the network as it is written."""


def _cat_residuals(parts: Sequence[Residuals | None]) -> Residuals | None:
    first = next((part for part in parts if part is not None), None)
    if first is None:
        return None
    zeros = Residuals(tuple(torch.zeros_like(skip) for skip in first.down), torch.zeros_like(first.mid))
    whole = [zeros if part is None else part for part in parts]
    down = (torch.cat(skips) for skips in zip(*(part.down for part in whole), strict=True))
    return Residuals(tuple(down), torch.cat([part.mid for part in whole]))
