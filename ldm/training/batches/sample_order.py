"""The order of samples and their random generators, both pure functions of a seed and a position.

Nothing here has state, so a training that was killed goes on with exactly the samples and draws that it would have
seen, on any number of processes.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from ldm.training.batches.random_streams import Stream

_MASK = (1 << 64) - 1
_ROUNDING = 1e-9  # of a share that is a whole number of steps


def mix(*numbers: int) -> int:
    """Hash integers into one 64-bit seed (splitmix64, Steele et al. 2014), so that neighbours share nothing."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def generator_for(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """The CPU generator of the sample at global position `index`; `stream` separates loading from the loss."""
    return torch.Generator().manual_seed(mix(seed, index, stream))


class Order(Protocol):
    """Maps the global position of a sample in a training to its id in the dataset."""

    def __getitem__(self, position: int) -> int: ...


class SampleOrder:
    """Maps the global position of a sample in a training to its id in the dataset.

    Every epoch of `len(weights)` positions visits sample i `weights[i] * n / sum(weights)` times, rounded up or down
    (systematic resampling), in a new random order; equal weights visit each sample exactly once.

    Args:
        weights: relative frequencies, (n,), not negative, not all zero.
        seed: of the order.
    """

    def __init__(self, weights: np.ndarray, seed: int) -> None:
        if len(weights) == 0 or (weights < 0).any() or weights.sum() <= 0:
            raise ValueError("sample weights must be a non-empty list of numbers >= 0 with a positive sum")
        cumulative = np.cumsum(weights, dtype=np.float64)
        self._cumulative = cumulative / cumulative[-1]
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._order_of_epoch)

    def __len__(self) -> int:
        return len(self._cumulative)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, len(self))
        return int(self._epoch(epoch)[offset])

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(key=mix(self._seed, epoch)))
        n = len(self)
        ids = np.searchsorted(self._cumulative, (np.arange(n) + random.uniform()) / n, side="right")
        return random.permutation(np.minimum(ids, n - 1))


class GroupedOrder:
    """The same for samples of several groups, of which a step holds only one: pictures of one shape.

    Positions [k B, (k + 1) B) are step k. Every group has an endless order of its own, in which it is visited as a
    `SampleOrder` says, and its steps take B samples of it at a time. So nothing is left out and nothing repeated: the
    samples at the end of an epoch that do not fill a step begin the group's first step of a later epoch. After e
    epochs of n = len(weights) samples a group has made floor(e share / B) steps, where share is its part of n by
    weight (its size, for equal weights); fewer than B of its visits are still to come. The steps of an epoch come in a
    random order.

    Args:
        weights: relative frequencies, (n,), not negative, not all zero.
        groups: of the samples, (n,), integers >= 0.
        batch_size: B, samples of an optimizer step over all processes.
        seed: of the order.
    """

    def __init__(self, weights: np.ndarray, groups: np.ndarray, batch_size: int, seed: int) -> None:
        used = [group for group in np.unique(groups) if weights[groups == group].sum() > 0]
        if not used or (weights < 0).any():
            raise ValueError("sample weights must be a non-empty list of numbers >= 0 with a positive sum")
        self._members = [np.flatnonzero(groups == group) for group in used]
        self._orders = [
            SampleOrder(weights[members], mix(seed, Stream.GROUPS + int(group)))
            for members, group in zip(self._members, used, strict=True)
        ]
        totals = np.array([weights[members].sum() for members in self._members], dtype=np.float64)
        self._steps_an_epoch = totals / totals.sum() * len(weights) / batch_size
        self._batch_size, self._seed = batch_size, seed
        self._epoch = lru_cache(maxsize=2)(self._steps_of_epoch)

    def __getitem__(self, position: int) -> int:
        step, place = divmod(position, self._batch_size)
        epoch = self._epoch_of(step)
        group, turn = self._epoch(epoch)[step - int(self._made(epoch).sum())]
        return int(self._members[group][self._orders[group][turn * self._batch_size + place]])

    def _made(self, epochs: int) -> np.ndarray:
        """Steps that each group has made after so many epochs."""
        return np.floor(epochs * self._steps_an_epoch + _ROUNDING).astype(np.int64)

    def _epoch_of(self, step: int) -> int:
        low, high = 0, int((step + 1 + len(self._orders)) / self._steps_an_epoch.sum()) + 2
        while high - low > 1:  # made(low) <= step < made(high)
            middle = (low + high) // 2
            low, high = (middle, high) if self._made(middle).sum() <= step else (low, middle)
        return low

    def _steps_of_epoch(self, epoch: int) -> list[tuple[int, int]]:
        """Group and turn of the group, for each step of an epoch."""
        turns, counts = self._made(epoch).tolist(), self._made(epoch + 1) - self._made(epoch)
        random = np.random.Generator(np.random.Philox(key=mix(self._seed, epoch, Stream.GROUPS)))
        steps = []
        for group in random.permutation(np.repeat(np.arange(len(counts)), counts)).tolist():
            steps.append((group, turns[group]))
            turns[group] += 1
        return steps
