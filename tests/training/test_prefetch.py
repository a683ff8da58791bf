"""Batches that are made ready ahead: the same ones in the same order, bounded, and never a silent hang."""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from regression import QUICK, Points, trainer
from typer.testing import CliRunner

from ldm.cli import app
from ldm.training.batches import loader
from ldm.training.batches.loader import BatchLoader
from ldm.training.batches.prefetch import Prefetcher


class Awkward(Points):
    """Points whose sample 5 cannot be had."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        if index == 5:
            if self._how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._how == "hangs":
                time.sleep(60)
            raise ValueError("picture 5 cannot be decoded (torn); run `ldm data check`")
        return super().item(index, generator)


def _batches(dataset: Points, **settings: Any) -> list[list[dict[str, Any]]]:
    loader = BatchLoader(dataset, replace(QUICK, **settings), processes=2, rank=1)
    return list(loader.steps(16, torch.device("cpu")))


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 1), (0, 3), (1, 0), (2, 1), (2, 3)])
def test_workers_and_prefetching_change_no_batch(workers, prefetch):
    settings = {"micro_batch_size": 3, "samples": 56}
    plain = _batches(Points(), workers=0, prefetch=0, **settings)
    assert len(plain) == 5 and [len(step) for step in plain] == [2] * 5
    for mine, theirs in zip(_batches(Points(), workers=workers, prefetch=prefetch, **settings), plain, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_no_more_lies_ready_than_the_depth_says(depth):
    made = []

    def start() -> Iterator[int]:
        for i in range(30):
            made.append(i)
            yield i

    ahead = Prefetcher(start, depth)
    for expected in range(30):
        time.sleep(0.002)
        limit = expected + depth + (1 if depth else 0)  # the thread has one more in its hand
        assert len(made) <= limit
        assert next(ahead) == expected
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(ahead)


def test_the_next_item_is_made_while_the_last_one_is_used():
    made = []

    def start() -> Iterator[int]:
        for i in range(3):
            made.append(i)
            yield i

    ahead = Prefetcher(start, 1)
    assert next(ahead) == 0
    deadline = time.monotonic() + 30
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2]  # nobody asked for the last two yet


def test_waiting_is_counted_until_it_is_read():
    def start() -> Iterator[int]:
        time.sleep(0.05)
        yield 1

    for depth in (0, 1):
        ahead = Prefetcher(start, depth)
        assert next(ahead) == 1
        assert ahead.take_waited() >= 0.04 and ahead.take_waited() == 0


def test_a_closed_prefetcher_takes_no_more():
    made = []

    def start() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    ahead = Prefetcher(start, 2)
    next(ahead)
    ahead.close()
    time.sleep(0.3)
    count = len(made)
    time.sleep(0.1)
    assert len(made) == count < 10


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 0), (0, 2), (1, 2)])
def test_an_error_while_loading_is_the_same_line_wherever_it_happens(workers, prefetch):
    with pytest.raises(ValueError, match="picture 5") as error:
        _batches(Awkward("raises"), workers=workers, prefetch=prefetch)
    assert str(error.value) == "picture 5 cannot be decoded (torn); run `ldm data check`"


def test_batches_before_an_error_are_used():
    dataset = Awkward("raises")
    loader = BatchLoader(dataset, replace(QUICK, prefetch=2), processes=1, rank=0)
    at = [loader.sample_ids(start).count(5) for start in range(0, 64, 8)].index(1)
    steps = loader.steps(0, torch.device("cpu"))
    assert [next(steps)[0]["index"][0].item() for _ in range(at)] == list(range(0, 8 * at, 8))
    with pytest.raises(ValueError, match="picture 5 cannot be decoded"):
        next(steps)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line():
    with pytest.raises(OSError, match=r"a data-loading process died \(.*\); it may lack memory: use fewer") as error:
        _batches(Awkward("dies"), workers=1)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("depth", [0, 1])
def test_a_worker_that_dies_while_the_main_thread_waits_is_one_line(depth):
    """Where a DataLoader ran in the main thread before, torch raises from a signal handler, in the midst of waiting."""

    def start() -> Iterator[int]:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(0.5)
        yield 1

    def dead(*_: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, dead)
    try:
        with pytest.raises(OSError, match=r"a data-loading process died \(.*\); it may lack memory: use fewer"):
            next(Prefetcher(start, depth))
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_that_hangs_is_one_line(workers):
    with pytest.raises(OSError, match=r"no batch came within loop.load_timeout=2 seconds; look after the disk"):
        _batches(Awkward("hangs"), workers=workers, prefetch=1, load_timeout=2)


@pytest.mark.slow
def test_the_wait_for_data_is_in_the_stats_and_in_the_status(tmp_path):
    trainer(tmp_path).fit()
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert all(line["data/wait_ms"] >= 0 and 0 <= line["data/wait_share"] <= 1 for line in lines)
    found = json.loads(CliRunner().invoke(app, ["train", "status", str(tmp_path), "--json"]).stdout)
    assert found["wait_ms"] == lines[-1]["data/wait_ms"] and found["wait_share"] == lines[-1]["data/wait_share"]
    shown = CliRunner().invoke(app, ["train", "status", str(tmp_path)]).stdout
    assert f"a step waits {found['wait_ms']:.3g} ms for it" in shown


def test_sample_ids_agree_with_what_is_loaded():
    loader = BatchLoader(Points(), QUICK, processes=1, rank=0)
    x = Points().x
    for start, (batch,) in zip(range(0, 64, 8), loader.steps(0, torch.device("cpu")), strict=True):
        assert np.array_equal(batch["x"], x[loader.sample_ids(start)])


def test_batches_wait_in_pinned_memory_where_a_gpu_fetches_them(monkeypatch):
    pinned = []
    monkeypatch.setattr(loader, "DataLoader", lambda *given, pin_memory, **options: pinned.append(pin_memory) or [])
    for device in ("cpu", "cuda", "cuda:1"):
        assert not list(BatchLoader(Points(), QUICK, 1, 0).steps(0, torch.device(device)))
    assert pinned == [False, True, True]
