"""Results of frozen networks, kept on disk in shards that several processes make together and a kill does not lose."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ldm.io.disk.files import free_space, replace_file, size_in_words
from ldm.io.disk.lock import hold
from ldm.progress import Progress, silent, track

_SHARD_BYTES = 64 << 20
_SHARD_ROWS = 1024
_PAUSE = 0.1  # seconds between two looks at what other processes have made


@dataclass(frozen=True)
class Shard:
    """A part of a cache.

    Attributes:
        name: of its file.
        ids: (n,) what its rows are of, by number.
        row_bytes: of each row, all tensors together.
    """

    name: str
    ids: np.ndarray
    row_bytes: int


def cut_into_shards(groups: np.ndarray, row_bytes: Sequence[int]) -> list[Shard]:
    """Shards of at most 64 MiB and 1,024 rows, each of one group: a function of its arguments alone.

    Args:
        groups: of each row, (N,), integers >= 0. The rows of a group stack.
        row_bytes: of a row, by the group.
    """
    shards: list[Shard] = []
    for group in np.unique(groups).tolist():
        ids = np.flatnonzero(groups == group)
        rows = min(_SHARD_ROWS, max(1, _SHARD_BYTES // row_bytes[group]))
        for start in range(0, len(ids), rows):
            shards.append(Shard(f"{len(shards):06d}", ids[start : start + rows], row_bytes[group]))
    return shards


class ShardCache:
    """Rows of tensors by number, in safetensors files that are mapped at their first use.

    What is missing is made now. Several processes, also of different trainings, share the work: each takes a shard
    that nobody else is making, and waits at the end for the others'. A finished shard stays whatever happens later.

    Args:
        folder: of the shards; its name should change with everything that the rows depend on.
        shards: all of them.
        make: the tensors of one shard by name, row by row in the order of its ids.
        what: is made, for reports and errors.
        progress: of the making.

    Raises:
        OSError: the disk has no room for what is missing.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        make: Callable[[Shard], Mapping[str, Tensor]],
        what: str,
        progress: Progress = silent,
    ) -> None:
        self._folder, self._shards = folder, shards
        count = sum(len(shard.ids) for shard in shards)
        self._shard_of, self._row_of = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for number, shard in enumerate(shards):
            self._shard_of[shard.ids], self._row_of[shard.ids] = number, np.arange(len(shard.ids))
        self._open: dict[int, Any] = {}
        missing = [shard for shard in shards if not self._path(shard).is_file()]
        if missing:
            self._fill(missing, make, what, progress)

    def row(self, number: int) -> dict[str, Tensor]:
        """The tensors of one row, in memory of their own."""
        tensors = self._tensors(int(self._shard_of[number]))
        return {name: tensor[self._row_of[number]].clone() for name, tensor in tensors.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a loading process maps the files itself

    def _tensors(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            from safetensors import safe_open

            file = safe_open(self._path(self._shards[number]), framework="pt")
            self._open[number] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return self._open[number]

    def _path(self, shard: Shard) -> Path:
        return self._folder / f"{shard.name}.safetensors"

    def _fill(
        self, missing: list[Shard], make: Callable[[Shard], Mapping[str, Tensor]], what: str, progress: Progress
    ) -> None:
        size = sum(len(shard.ids) * shard.row_bytes for shard in missing)
        if size > (free := free_space(self._folder)):
            raise OSError(
                f"{self._folder}: {what} need {size_in_words(size)}, but {size_in_words(free)} are free; free some"
                " space or do not cache them"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        description = f"making {what}, {size_in_words(size)} in {self._folder}"
        for shard in track(self._mine(missing), description, progress, len(missing)):
            if shard is not None:
                _write(self._path(shard), make(shard))
        for lock in self._folder.glob(".*.lock"):  # a process that still waits for one finds every shard there
            lock.unlink(missing_ok=True)

    def _mine(self, missing: list[Shard]) -> Iterator[Shard | None]:
        """Each missing shard once: itself for this process to make, None when another process has made it."""
        while missing:
            left = []
            for shard in missing:
                with hold(_lock_of(self._path(shard))) as held:
                    if self._path(shard).is_file():
                        yield None
                    elif held:
                        yield shard
                    else:
                        left.append(shard)
            if len(left) == len(missing):
                time.sleep(_PAUSE)
            missing = left


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    with replace_file(path) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
