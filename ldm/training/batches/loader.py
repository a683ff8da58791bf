"""Which samples a process sees in which step, and how they are loaded."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ldm.engine.placement import send
from ldm.training.batches.prefetch import Prefetcher
from ldm.training.batches.random_streams import Stream
from ldm.training.batches.sample_order import GroupedOrder, Order, SampleOrder, generator_for
from ldm.training.config import LoopConfig
from ldm.training.objectives.base import Batch, Dataset, Grouped


class _Ordered(torch.utils.data.Dataset):
    """A dataset addressed by global position in the training instead of by sample id."""

    def __init__(self, dataset: Dataset, order: Order, seed: int) -> None:
        self._dataset, self._order, self._seed = dataset, order, seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = self._dataset.item(self._order[position], generator_for(self._seed, position, Stream.LOADING))
        return {**item, "index": position}


class BatchLoader:
    """The batches of one process.

    An optimizer step takes the next `batch_size` positions; each process takes an equal share of them, in one run of
    positions, cut into micro-batches. So the samples of a step do not depend on how many processes there are. All
    samples of a step are of one group where the dataset has groups. Processes (`config.workers`) and a thread make
    the next batches ready (`config.prefetch`) and change nothing of this.

    Args:
        dataset, config: what is loaded, and how much at once.
        processes, rank: of the training; this one is the `rank`-th.

    Raises:
        ValueError: the batch does not divide among the processes.
    """

    _prefetcher: Prefetcher[Batch] | None = None

    def __init__(self, dataset: Dataset, config: LoopConfig, processes: int, rank: int) -> None:
        if config.batch_size % processes:
            near = max(config.batch_size // processes, 1) * processes
            raise ValueError(
                f"loop.batch_size={config.batch_size} does not divide among {processes} processes; use {near}, or"
                " another number of processes"
            )
        self._config, self._rank = config, rank
        self._order = order_of(dataset, config.batch_size, config.seed)
        self._ordered = _Ordered(dataset, self._order, config.seed)
        self._share = config.batch_size // processes
        self._micro = min(config.micro_batch_size or self._share, self._share)

    def sample_ids(self, samples_seen: int) -> list[int]:
        """The dataset's ids of all samples, over all processes, of the step that begins at `samples_seen`."""
        return [self._order[samples_seen + i] for i in range(self._config.batch_size)]

    def steps(self, samples_seen: int, device: torch.device) -> Iterator[list[Batch]]:
        """The micro-batches of this process on `device`, for every optimizer step that is left.

        Raises:
            ValueError: the dataset has groups and `samples_seen` lies inside a step.
            OSError: a batch did not come within `config.load_timeout`, or a data-loading process died.
        """
        config = self._config
        if isinstance(self._order, GroupedOrder) and samples_seen % config.batch_size:
            raise ValueError(
                f"loop.batch_size={config.batch_size} does not divide the {samples_seen:,} samples seen, as"
                " data.buckets need; go on with the batch size that this training had"
            )
        loader = DataLoader(
            self._ordered,
            batch_sampler=self._positions(samples_seen),  # type: ignore[arg-type]
            num_workers=config.workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=max(config.prefetch, 1) if config.workers else None,
        )
        depth = max(config.prefetch, 1) if config.workers else config.prefetch
        batches = self._prefetcher = Prefetcher(lambda: iter(loader), depth, config.load_timeout)
        try:
            while micro_batches := list(islice(batches, -(-self._share // self._micro))):
                yield [to_device(batch, device) for batch in micro_batches]
        finally:
            batches.close()

    def waited(self) -> dict[str, Tensor]:
        """How long this process waited for data since the last call, in milliseconds, as a scalar to log."""
        seconds = self._prefetcher.take_waited() if self._prefetcher else 0.0
        return {"data/wait_ms": torch.tensor(1000 * seconds)}

    def _positions(self, samples_seen: int) -> Iterator[list[int]]:
        for start in range(samples_seen, self._config.samples, self._config.batch_size):
            first = start + self._rank * self._share
            for position in range(first, first + self._share, self._micro):
                yield list(range(position, min(position + self._micro, first + self._share)))


def order_of(dataset: Dataset, batch_size: int, seed: int) -> Order:
    """Which sample of a dataset comes at which position of a training with so many samples in a step."""
    groups = dataset.groups if isinstance(dataset, Grouped) else None
    if groups is None:
        return SampleOrder(dataset.weights, seed)
    return GroupedOrder(dataset.weights, groups, batch_size, seed)


def spread_batch(dataset: Dataset, count: int, seed: int, device: torch.device) -> Batch:
    """At most `count` samples at equal distances through a dataset, the same ones and the same draws every time.

    Of a dataset with groups, the samples are of the largest one.
    """
    groups = dataset.groups if isinstance(dataset, Grouped) else None
    known = np.arange(len(dataset)) if groups is None else np.flatnonzero(groups == np.bincount(groups).argmax())
    count = min(count, len(known))
    ids = [int(known[i * len(known) // count]) for i in range(count)]
    items = [{**dataset.item(i, generator_for(seed, i, Stream.LOADING)), "index": i} for i in ids]
    return to_device(default_collate(items), device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {key: send(value, device) if isinstance(value, Tensor) else value for key, value in batch.items()}
