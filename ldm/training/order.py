"""Which sample comes when, and where its randomness comes from: both pure functions of a seed and a position.

Nothing here has state, so a training that was killed goes on with exactly the samples and draws that it would have
seen, on any number of processes.
"""

from functools import lru_cache

import numpy as np
import torch

_MASK = (1 << 64) - 1


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
