"""Local and remote files through fsspec: listing, time of change, reading of byte ranges."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_BLOCK = 8 << 20
_PAUSES = (1.0, 4.0)


def is_remote(path: str) -> bool:
    """Whether this is an address (`https://…`, `s3://…`, `simplecache::https://…`) and no path on this machine."""
    return "://" in path


def expand(pattern: str) -> list[str]:
    """Every path or address that `pattern` stands for: `{000..010}`, `{a,b}`, and `*` for what is there, sorted.

    Raises:
        OSError: an address with `*` cannot be reached.
    """
    if found := _BRACES.search(pattern):
        first, last, choices = found.groups()
        words = choices.split(",") if choices else [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
        return [each for word in words for each in expand(pattern[: found.start()] + word + pattern[found.end() :])]
    if "*" not in pattern:
        return [pattern]
    if is_remote(pattern):
        with reaching(pattern):
            system, path = _system(pattern)
            return sorted(system.unstrip_protocol(each) for each in system.glob(path))
    return sorted(glob(pattern))


def stamp(path: str) -> str:
    """A text that changes when the file does: its name, size, and time or tag.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    if not is_remote(path):
        about = Path(path).stat()
        return f"{Path(path).name} {about.st_size} {about.st_mtime_ns}"
    with reaching(path):
        system, there = _system(path)
        known = system.info(there)
        marks = (known.get(name) for name in ("size", "ETag", "mtime", "LastModified", "last_modified", "created"))
        return " ".join([path.rpartition("/")[2], *(str(mark) for mark in marks if mark is not None)])


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A file to read and move about in.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    with reaching(path):
        system, there = _system(path)
        opened = system.open(there, "rb", block_size=_BLOCK)
    with opened as file:
        yield _RemoteFile(file, path)  # type: ignore[misc]


def read_piece(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset`. Elsewhere, two more attempts are made.

    Raises:
        OSError: it is not there, cannot be reached, or has changed.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(offset)
            piece = file.read(size)
    else:
        piece = _patiently(path, offset, size)
    if len(piece) > size:
        raise _whole_files_only(path)
    if len(piece) < size:
        raise OSError(f"{path}: gave {len(piece):,} of {size:,} bytes at {offset:,}; has it changed since the start?")
    return piece


def _patiently(path: str, offset: int, size: int) -> bytes:
    for pause in (*_PAUSES, None):
        try:
            with reaching(path):
                system, there = _system(path)
                return system.cat_file(there, start=offset, end=offset + size)
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Turn whatever goes wrong on the way to `path` into one OSError that names it."""
    try:
        yield
    except ImportError as error:
        package = "s3fs" if "s3://" in path else "'ldm[data]'"
        raise OSError(f"{path}: this kind of address needs a package ({error}); pip install {package}") from error
    except Exception as error:  # each protocol has errors of its own
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        if cause is None or getattr(cause, "status", None) == 404:
            raise OSError(f"{path} is not there; correct the address") from error
        if "range requests" in str(error):
            raise _whole_files_only(path) from error
        about = str(cause) or type(cause).__name__
        raise OSError(f"{path} cannot be reached ({about}); correct the address or try again later") from error


def _whole_files_only(path: str) -> OSError:
    return OSError(f"{path}: the server gives whole files only; write simplecache::{path}, which keeps copies here")


class _RemoteFile:
    """A file object for tarfile, with errors that name the file."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        with reaching(self._path):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()


def _system(path: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # keeps one connection per process, so a forked worker opens its own

    return url_to_fs(path)
