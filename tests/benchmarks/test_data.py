"""The loader benchmark behind docs/training/data.md measures what it says, on a few small pictures."""

from pathlib import Path

import pytest

from benchmarks.data import (
    PIXELS,
    SOURCES,
    WORKERS,
    Load,
    Speed,
    measure_loader,
    measure_thread,
    open_pictures,
    table,
    write_pictures,
)

LOAD = Load(pictures=9, edge=32, size=16, batch=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root, LOAD)
    return root


def test_every_row_loads_the_same_pictures(root):
    datasets = [open_pictures(root, source, pixels, LOAD) for source in SOURCES for pixels in PIXELS]
    for dataset in datasets:
        assert len(dataset) == 9 and dataset.all_captions() == [f"picture {i}" for i in range(9)]
        assert all(dataset.image(i).equal(datasets[0].image(i)) for i in range(9))


@pytest.mark.slow
def test_every_kind_is_measured(root):
    loader, thread = measure_loader(root, LOAD, 1), measure_thread(root, LOAD, 1, 0.01)
    assert loader.keys() == {(s, p, w) for s in SOURCES for p in PIXELS for w in WORKERS}
    assert all(speed.seconds > 0 and speed.processor > 0 for speed in loader.values())
    assert all(0 < speed.waited <= speed.seconds - 0.01 for speed in thread.values())


def test_the_table_shows_speeds_and_waits():
    loader = {(s, p, w): Speed(0.003 / (1 + w), 0, 0.0005) for s in SOURCES for p in PIXELS for w in WORKERS}
    lines = table(LOAD, loader, {0: Speed(0.25, 0.05, 0), 2: Speed(0.2, 0.0, 0)}, 0.2).splitlines()
    assert lines[2] == "| folder, decoded | 1,000 | 2,000 | 3,000 | 6,000 |"
    assert lines[-2:] == ["| `loop.prefetch=0` | 250 | 20% |", "| `loop.prefetch=2` | 200 | 0% |"]
