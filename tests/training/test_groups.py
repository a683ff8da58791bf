"""Samples of several shapes: a step holds one of them, everything is seen, and the order has no state."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from ldm.training.batches.loader import BatchLoader, order_of, spread_batch
from ldm.training.batches.sample_order import GroupedOrder, SampleOrder
from ldm.training.config import LoopConfig

SIZES = (23, 4, 1, 40)
GROUPS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES))
BATCH = 6


class Shapes:
    """Samples whose length is that of their group, plus one."""

    def __init__(self, groups: np.ndarray | None = GROUPS) -> None:
        self.groups, self.weights = groups, np.ones(len(GROUPS))

    def __len__(self) -> int:
        return len(self.weights)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"id": index, "x": torch.zeros(1 + int(GROUPS[index]))}


def _steps(order: GroupedOrder, count: int) -> list[list[int]]:
    return [[order[step * BATCH + i] for i in range(BATCH)] for step in range(count)]


def test_a_step_is_of_one_group():
    for ids in _steps(GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=0), 100):
        assert len(set(GROUPS[ids])) == 1


@pytest.mark.parametrize("epochs", [1, 2, 7, 30])
def test_after_some_epochs_all_were_seen_as_often_but_for_less_than_a_step_of_each_group(epochs):
    order = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=0)
    steps = sum(epochs * size // BATCH for size in SIZES)
    seen = np.bincount(np.concatenate(_steps(order, steps)), minlength=len(GROUPS))
    for group, size in enumerate(SIZES):
        mine = seen[group == GROUPS]
        assert epochs * size - BATCH < mine.sum() <= epochs * size  # less than a step is still to come
        assert mine.max() <= epochs and (size < BATCH or mine.min() >= epochs - 1)
    next_steps = np.concatenate(_steps(order, steps + 12))
    late = np.bincount(next_steps, minlength=len(GROUPS))
    assert late.min() >= min(epochs, late.max() - 1) - BATCH  # nobody is left behind


def test_the_visits_of_a_group_are_those_of_its_own_order():
    """Group by group the steps are one endless walk: each sample once, then each once again, nothing dropped."""
    order = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=3)
    walks: dict[int, list[int]] = {}
    for ids in _steps(order, 200):
        walks.setdefault(int(GROUPS[ids[0]]), []).extend(ids)
    for group, walk in walks.items():
        size = SIZES[group]
        for start in range(0, len(walk) - size + 1, size):
            assert sorted(walk[start : start + size]) == np.flatnonzero(group == GROUPS).tolist()


def test_positions_can_be_read_in_any_order_and_anew():
    first = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=1)
    second = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=1)
    places = np.random.default_rng(1).permutation(3000)
    backwards = {int(place): second[int(place)] for place in places}
    assert [first[i] for i in range(3000)] == [backwards[i] for i in range(3000)]
    assert [first[i] for i in range(100)] != [
        GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=2)[i] for i in range(100)
    ]


def test_groups_take_turns():
    """The steps of an epoch are mixed: no group has them all in a row."""
    order = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=0)
    kinds = [int(GROUPS[ids[0]]) for ids in _steps(order, 200)]
    changes = sum(a != b for a, b in pairwise(kinds))
    assert changes > 60


def test_weights_are_visit_counts_of_samples_and_of_groups():
    weights = np.random.default_rng(2).uniform(0, 3, len(GROUPS))
    weights[[1, 5]] = 0
    order = GroupedOrder(weights, GROUPS, BATCH, seed=0)
    epochs = 300
    steps = epochs * len(GROUPS) // BATCH
    counts = np.bincount(np.concatenate(_steps(order, steps)), minlength=len(GROUPS))
    np.testing.assert_allclose(counts / epochs, weights * len(GROUPS) / weights.sum(), atol=0.15)
    assert counts[1] == counts[5] == 0


def test_a_group_that_is_smaller_than_a_step_waits_until_it_fills_one():
    order = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, seed=0)
    (alone,) = np.flatnonzero(GROUPS == 2)
    steps = [ids for ids in _steps(order, 200) if alone in ids]
    assert steps and all(ids == [alone] * BATCH for ids in steps)
    assert sum(len(ids) for ids in steps) <= -(-200 * BATCH // len(GROUPS))


@pytest.mark.parametrize(("processes", "micro"), [(1, 0), (1, 2), (2, 0), (3, 1)])
def test_processes_and_micro_batches_cut_the_same_steps(processes, micro):
    config = LoopConfig(samples=120, batch_size=BATCH, micro_batch_size=micro)
    whole = GroupedOrder(np.ones(len(GROUPS)), GROUPS, BATCH, config.seed)
    feeds = [BatchLoader(Shapes(), config, processes, rank) for rank in range(processes)]
    for start, parts in zip(
        range(48, 120, BATCH),
        zip(*(loader.steps(48, torch.device("cpu")) for loader in feeds), strict=True),
        strict=True,
    ):
        ids = [i for part in parts for batch in part for i in batch["id"].tolist()]
        assert ids == [whole[start + i] for i in range(BATCH)] == feeds[0].sample_ids(start)
        assert len({batch["x"].shape[1] for part in parts for batch in part}) == 1


def test_a_clock_inside_a_step_is_refused():
    loader = BatchLoader(Shapes(), LoopConfig(samples=120, batch_size=BATCH), processes=1, rank=0)
    with pytest.raises(ValueError, match=r"loop.batch_size=6 does not divide the 50 samples seen, as data.buckets"):
        next(loader.steps(50, torch.device("cpu")))


def test_without_groups_the_order_is_what_it_was():
    assert isinstance(order_of(Shapes(None), BATCH, 0), SampleOrder)


def test_weights_must_be_positive_somewhere():
    with pytest.raises(ValueError, match="weights"):
        GroupedOrder(np.zeros(len(GROUPS)), GROUPS, BATCH, seed=0)


def test_previews_are_of_the_largest_group():
    batch = spread_batch(Shapes(), 5, 0, torch.device("cpu"))
    assert batch["x"].shape == (5, 4) and set(GROUPS[batch["id"]]) == {3}
