"""Shards of a cache: made once, by all together, kept through a kill, and never larger than was said."""

import multiprocessing
import os
import pickle
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.data.cache.shards import Shard, ShardCache, cut_into_shards

GROUPS = np.array([0, 1, 0, 2, 1, 0, 0, 2, 1, 0] * 6)
SHARDS = [
    Shard(f"{group}-{part}", ids, 8 * (group + 1))
    for group in range(3)
    for part, ids in enumerate(np.array_split(np.flatnonzero(group == GROUPS), 3))
]
FORK = multiprocessing.get_context("fork")


def truth(number: int) -> Tensor:
    return torch.full((int(GROUPS[number]) + 1,), float(number), dtype=torch.float64)


def make(shard: Shard) -> dict[str, Tensor]:
    return {"value": torch.stack([truth(i) for i in shard.ids]), "number": torch.from_numpy(shard.ids)}


def refuse(shard: Shard) -> dict[str, Tensor]:
    raise AssertionError(f"{shard.name} was there already")


def check(cache: ShardCache) -> None:
    for i in range(len(GROUPS)):
        row = cache.row(i)
        assert torch.equal(row["value"], truth(i)) and int(row["number"]) == i


def test_rows_of_several_shapes_come_back_and_are_made_once(tmp_path):
    check(ShardCache(tmp_path / "cache", SHARDS, make, "numbers"))
    check(ShardCache(tmp_path / "cache", SHARDS, refuse, "numbers"))
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert files == sorted(f"{shard.name}.safetensors" for shard in SHARDS)


def test_a_row_is_a_copy_and_a_cache_goes_to_another_process(tmp_path):
    cache = ShardCache(tmp_path, SHARDS, make, "numbers")
    cache.row(3)["value"].zero_()
    check(cache)
    assert len(pickle.dumps(cache)) < 20_000
    check(pickle.loads(pickle.dumps(cache)))


def test_a_kill_loses_only_the_shard_that_was_being_made(tmp_path):
    def dies(shard: Shard) -> dict[str, Tensor]:
        if shard.name == SHARDS[4].name:
            (tmp_path / f".{shard.name}.safetensors.0a1b2c3d.{os.getpid()}.partial").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return make(shard)

    child = FORK.Process(target=ShardCache, args=(tmp_path, SHARDS, dies, "numbers"))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    made: list[str] = []

    def resumes(shard: Shard) -> dict[str, Tensor]:
        made.append(shard.name)
        return make(shard)

    check(ShardCache(tmp_path, SHARDS, resumes, "numbers"))
    assert made == [shard.name for shard in SHARDS[4:]]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_processes_share_the_shards_and_each_ends_with_all(tmp_path):
    def notes(shard: Shard) -> dict[str, Tensor]:
        time.sleep(0.02)
        with (tmp_path / "made").open("a") as file:
            file.write(f"{shard.name} {os.getpid()}\n")
        return make(shard)

    def work() -> None:
        check(ShardCache(tmp_path / "cache", SHARDS, notes, "numbers"))

    children = [FORK.Process(target=work) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    names, makers = zip(*(line.split() for line in (tmp_path / "made").read_text().splitlines()), strict=True)
    assert sorted(names) == sorted(shard.name for shard in SHARDS) and len(set(makers)) > 1


def test_shards_of_a_process_that_dies_are_made_by_another(tmp_path):
    def slow(shard: Shard) -> dict[str, Tensor]:
        (tmp_path / "began").touch()
        time.sleep(60)
        return make(shard)

    child = FORK.Process(target=ShardCache, args=(tmp_path / "cache", SHARDS, slow, "numbers"))
    child.start()
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    other = FORK.Process(target=ShardCache, args=(tmp_path / "cache", SHARDS, make, "numbers"))
    other.start()
    other.join(0.5)
    assert other.is_alive()  # it waits for the shard that the first one makes
    child.kill()
    other.join(60)
    assert other.exitcode == 0
    check(ShardCache(tmp_path / "cache", SHARDS, refuse, "numbers"))


def test_what_does_not_fit_on_the_disk_is_said_before_anything_is_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 700))
    with pytest.raises(
        OSError, match=r"cache: numbers need 816 bytes, but 700 bytes are free; free some space"
    ) as error:
        ShardCache(tmp_path / "cache", SHARDS, refuse, "numbers")
    assert len(str(error.value).splitlines()) == 1 and not list(tmp_path.iterdir())


def test_an_error_leaves_whole_shards_alone(tmp_path):
    def fails(shard: Shard) -> dict[str, Tensor]:
        if shard.name == SHARDS[2].name:
            raise ValueError("no")
        return make(shard)

    with pytest.raises(ValueError, match="no"):
        ShardCache(tmp_path, SHARDS, fails, "numbers")
    assert sorted(path.stem for path in tmp_path.glob("[!.]*")) == [shard.name for shard in SHARDS[:2]]
    assert not list(tmp_path.glob(".*partial"))


def test_shards_are_small_of_one_group_and_hold_every_row_once():
    groups = np.random.default_rng(0).integers(0, 3, 9000)
    row_bytes = [10, 1 << 20, 200 << 20]
    shards = cut_into_shards(groups, row_bytes)
    assert sorted(np.concatenate([shard.ids for shard in shards]).tolist()) == list(range(9000))
    assert len({shard.name for shard in shards}) == len(shards)
    for shard in shards:
        (group,) = set(groups[shard.ids].tolist())
        assert shard.row_bytes == row_bytes[group] and len(shard.ids) <= 1024
        assert len(shard.ids) == 1 or len(shard.ids) * shard.row_bytes <= 64 << 20
