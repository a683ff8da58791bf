"""Training times of a denoiser: quantiles of a distribution, spread evenly within every batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.process import Process
from ldm.training.batches.random_streams import Stream
from ldm.training.batches.sample_order import generator_for

_EDGE = 1e-12


def stratify(index: Tensor, draws: Tensor, count: int, seed: int) -> Tensor:
    """One quantile per sample, such that the samples of a batch share the unit interval evenly.

    The batch of global positions [k count, (k + 1) count) gives each of the strata [i / count, (i + 1) / count) to
    exactly one of its samples, in an order of its own; within its stratum a sample lies where its own draw says. All is
    a function of the seed and the position, so the strata are the same on any number of processes, with any
    accumulation and after a resume. Less variance of the loss than with independent times (Kingma et al. 2021,
    appendix I.1).

    Args:
        index: global positions in the training `(B,)`, int64; any part of one or more batches.
        draws: uniform in [0, 1), float64 `(B,)`, each from its sample's own generator.
        count: strata of a batch, the global batch size; 1 leaves the draws as they are.
        seed: of the training.

    Returns:
        float64 `(B,)` inside (0, 1).
    """
    batches, places = index.cpu() // count, index.cpu() % count
    strata = torch.zeros_like(places)
    for batch in batches.unique().tolist():
        order = torch.randperm(count, generator=generator_for(seed, batch, Stream.STRATA))
        strata = torch.where(batches == batch, order[places], strata)
    return ((strata + draws) / count).clamp(_EDGE, 1 - _EDGE)


def uniform(quantile: Tensor, process: Process, mean: float, std: float) -> Tensor:
    """Even in the training index; whole steps where the process has a table (Ho et al. 2020, algorithm 1)."""
    return _time_at(quantile, process)


def logit_normal(quantile: Tensor, process: Process, mean: float, std: float) -> Tensor:
    """The place on the axis of training indices is sigmoid(N(mean, std^2)) (Esser et al. 2024, eq. 19)."""
    return _time_at((mean + std * torch.special.ndtri(quantile)).sigmoid(), process)


def log_normal(quantile: Tensor, process: Process, mean: float, std: float) -> Tensor:
    """log(sigma / alpha) is N(mean, std^2) (Karras et al. 2022, table 1), cut to the range of the process.

    Their mean = -1.2 and std = 1.2 are for data of deviation 0.5; for latents of deviation 1 that is mean = -0.5.
    """
    time = process.time_of_lambda(-(mean + std * torch.special.ndtri(quantile)))
    return time.round().clamp(min=0) if process.integer_times else time


TIME_SAMPLING: dict[str, Callable[[Tensor, Process, float, float], Tensor]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "log_normal": log_normal,
}
"""Name -> function of quantiles `(B,)` in (0, 1), process, mean and std; returns times float64 `(B,)`."""


def _time_at(place: Tensor, process: Process) -> Tensor:
    """The time at a place in (0, 1) on the axis of training indices, 0 being the least noise."""
    count = process.num_train_timesteps
    index = (place * count).floor() if process.integer_times else place * count - 1
    return process.time_of_index(index.clamp(0, count - 1))
