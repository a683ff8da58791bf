"""The pixels that samples are cut from: decoded at every access, or once into a file."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ldm.data.pictures.decoding import decode_covering, fit, picture_size
from ldm.data.sources.mixture import SourceMixture
from ldm.data.sources.source import digest
from ldm.io.disk.files import free_space, replace_file, size_in_words
from ldm.io.disk.partial import clear_abandoned, partial_of
from ldm.progress import Progress, silent, track

_CACHE_FORMAT = 3
_LARGEST_CACHE = 16 << 30
_AT_ONCE = 256

T = TypeVar("T")
R = TypeVar("R")


class BadPicture(ValueError):
    """A picture that can never be used; the message is the reason."""


@dataclass(frozen=True)
class Frame:
    """One picture at the size that samples are cut from.

    Attributes:
        pixels: uint8 (H, W, 3).
        original_size: height and width of the upright picture before any scaling.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]


class Frames(Protocol):
    """Frames by number.

    Attributes:
        name: another one whenever the pixels are others.
    """

    name: str

    def frame(self, index: int) -> Frame:
        """The middle of picture `index` in its shape. Raises BadPicture; OSError if it cannot be reached at present."""
        ...

    def original_sizes(self) -> np.ndarray:
        """Height and width of every upright picture before any scaling: int32 (N, 2), 0 where they are unknown."""
        ...


class LiveFrames:
    """Frames that are decoded at every access.

    Args:
        source: the pictures.
        shapes: heights and widths that a frame may have, (K, 2).
        groups: which of them each frame has, (N,); None for the first.
        no_enlarging: pictures smaller than their frame are bad ones.
    """

    def __init__(
        self, source: SourceMixture, shapes: np.ndarray, groups: np.ndarray | None, no_enlarging: bool
    ) -> None:
        self.source, self._no_enlarging = source, no_enlarging
        self._shapes, self._groups = shapes, groups
        what = str(shapes[0, 0]) if groups is None else f"{len(shapes)}-shapes"
        pixels = [] if groups is None else [shapes.tobytes(), groups.tobytes()]
        smaller = "-no-enlarging" if no_enlarging else ""
        self.name = f"pictures-{what}{smaller}-{digest(str(_CACHE_FORMAT), source.fingerprint, *pixels)[:12]}"

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a frame."""
        height, width = self._shapes[0 if self._groups is None else self._groups[index]].tolist()
        return height, width

    def starts(self) -> np.ndarray:
        """Where each frame's bytes begin if they lie one behind the other, and where the last ends: int64 (N + 1,)."""
        groups = np.zeros(len(self.source), np.int64) if self._groups is None else self._groups
        return np.concatenate([[0], np.cumsum(3 * self._shapes.prod(1)[groups])])

    def frame(self, index: int) -> Frame:
        """See `Frames`."""
        height, width = self.shape(index)
        try:
            picture, original = decode_covering(self.source.picture(index), height, width)
        except ValueError as error:
            raise BadPicture(str(error)) from error
        if self._no_enlarging and (original[0] < height or original[1] < width):
            needed, found = _in_words(height, width), _in_words(*original)
            raise BadPicture(f"crop_fraction needs pictures of {needed}, but it is {found}; use a smaller size")
        return Frame(np.asarray(fit(picture, height, width)), original)

    def original_sizes(self) -> np.ndarray:
        """See `Frames`."""
        return original_sizes(self.source)


def original_sizes(source: SourceMixture, progress: Progress = silent) -> np.ndarray:
    """Height and width of every upright picture, int32 (N, 2), 0 where they are unknown.

    The headers are read once and the sizes kept on disk.
    """

    def size(index: int) -> tuple[int, int]:
        try:
            return picture_size(source.picture(index))
        except ValueError:
            return 0, 0

    file = source.cache / f"sizes-{digest(source.fingerprint)}.npy"
    if not file.is_file():
        with ThreadPoolExecutor(max_workers=_threads()) as pool:
            found = bounded_map(pool, size, range(len(source)))
            sizes = list(track(found, "looking at the sizes of pictures", progress, len(source)))
        with replace_file(file) as out:
            np.save(out, np.array(sizes, dtype=np.int32).reshape(-1, 2))
    return np.load(file)


class CachedFrames:
    """Frames that were decoded once into `cache/<name>/`: `images.npy`, one behind the other, and `facts.jsonl`.

    Args:
        live: where the frames come from.
        cache: the folder.
        progress: of the decoding.

    Raises:
        ValueError: not one of the pictures can be used; nothing is kept then.
    """

    def __init__(self, live: LiveFrames, cache: Path, progress: Progress = silent) -> None:
        self.name = live.name
        folder = cache / self.name
        if not folder.exists():
            _make(folder, live, progress)
        self._live, self._starts = live, live.starts()
        self._bytes = np.load(folder / "images.npy", mmap_mode="r").reshape(-1)
        entries = [json.loads(line) for line in (folder / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
        self.bad: dict[int, str] = {i: entry["reason"] for i, entry in enumerate(entries) if "reason" in entry}
        self._sizes = np.array([entry.get("original_size", (0, 0)) for entry in entries], dtype=np.int32)

    def frame(self, index: int) -> Frame:
        """See `Frames`."""
        if index in self.bad:
            raise BadPicture(self.bad[index])
        height, width = self._sizes[index].tolist()
        pixels = self._bytes[self._starts[index] : self._starts[index + 1]].reshape(*self._live.shape(index), 3)
        return Frame(pixels, (height, width))

    def original_sizes(self) -> np.ndarray:
        """See `Frames`."""
        return self._sizes


def worth_caching(live: LiveFrames, cache: Path) -> bool:
    """Whether the frames take at most 16 GiB, and at most half of what is free on the disk."""
    size = int(live.starts()[-1])
    return size <= _LARGEST_CACHE and ((cache / live.name).exists() or 2 * size <= free_space(cache))


def bounded_map(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """As `pool.map`, which would hold every result in memory until the first is taken."""
    each = iter(items)
    while batch := list(islice(each, _AT_ONCE)):
        yield from pool.map(function, batch)


def _make(folder: Path, live: LiveFrames, progress: Progress) -> None:
    clear_abandoned(folder)
    scratch = partial_of(folder)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        _fill(scratch, live, progress)
        try:
            scratch.replace(folder)
        except OSError:
            if not folder.exists():  # else another process finished the same cache first, which is as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(scratch: Path, live: LiveFrames, progress: Progress) -> None:
    def attempt(index: int) -> Frame | BadPicture:
        try:
            return live.frame(index)
        except BadPicture as error:
            return error

    count, starts = len(live.source), live.starts()
    images = np.lib.format.open_memmap(scratch / "images.npy", mode="w+", dtype=np.uint8, shape=(int(starts[-1]),))
    entries: list[dict[str, object]] = []
    with ThreadPoolExecutor(max_workers=_threads()) as pool:
        found = bounded_map(pool, attempt, range(count))
        what = f"caching pictures, {size_in_words(starts[-1])}"
        for index, frame in enumerate(track(found, what, progress, count)):
            if isinstance(frame, Frame):
                images[starts[index] : starts[index + 1]] = frame.pixels.reshape(-1)
                entries.append({"original_size": frame.original_size})
            else:
                entries.append({"reason": str(frame)})
    if all("reason" in entry for entry in entries):
        raise ValueError(
            f"not one of {count} pictures can be used; {live.source.where(0)}: {entries[0]['reason']}; "
            "run `ldm data check`"
        )
    images.flush()
    with (scratch / "facts.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        lines.flush()
        os.fsync(lines.fileno())


def _in_words(height: int, width: int) -> str:
    return f"{height} px" if height == width else f"{height} x {width} px"


def _threads() -> int:
    return min(8, os.cpu_count() or 1)
