"""The streams of randomness of a training: one number for each purpose, all of them here.

`generator_for(seed, index, stream)` and `mix(seed, index, stream)` give draws that two streams never share. A number
that is in use stays what it is: the bytes of trainings depend on it.
"""

from enum import IntEnum, unique

_OTHER_RANKS = 1 << 22


@unique
class Stream(IntEnum):
    """The purposes of random numbers."""

    LOADING = 0
    """Crops, captions and variations of a training sample."""
    LOSS = 1
    """Noise, time and dropout of a training sample."""
    MODULES = 2
    """torch's global generator in a step, on the first process."""
    JUDGE_VALIDATION = 101
    """Which pictures the judge never sees."""
    JUDGE_CHECK = 102
    """Which pictures the judge is checked on, and how they are disturbed."""
    STRATA = 1 << 20
    """Which sample of a batch takes which stratum of time."""
    GROUPS = 1 << 21
    """The order of the steps of groups; added to a group's number, the order in a group."""
    VALIDATION_LOSS = (1 << 21) + 1
    """Noise of a held-out sample."""
    VALIDATION_TIMES = (1 << 21) + 2
    """Which held-out sample has which time."""
    VALIDATION_LOADING = (1 << 21) + 3
    """Crops and captions of a held-out sample."""


def modules_stream(rank: int) -> int:
    """The stream of torch's global generator in a step on the process `rank`."""
    return _OTHER_RANKS + rank if rank else Stream.MODULES
