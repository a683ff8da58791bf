"""Graphs on disk: converted once for a structure, read by every later process."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_log = logging.getLogger(__name__)
_MARK = b"ldm graph"


def cache_folder() -> Path:
    """Where things are kept between processes: `$XDG_CACHE_HOME/ldm`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm"


def kept(name: str, versions: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, from the file that an earlier call left.

    A file that is damaged or of other versions is made anew, and a line says so. Processes make one file once, and none
    sees half of one. Where the folder cannot be written, a line says that nothing is kept.

    Args:
        name: of the file.
        versions: of what makes it.
        make: what is kept.
    """
    path = cache_folder() / "graphs" / name
    content, _ = _read(path, versions)
    if content is not None:
        return content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            content, fault = _read(path, versions)  # by whoever held the lock
            if content is None:
                content = _made(path, fault, make)
                _write(path, versions, content)
    except OSError as error:
        _log.warning("%s cannot be written (%s); the converted network is not kept", path.parent, error.strerror)
        content = _made(path, "", make) if content is None else content
    return content


def _made(path: Path, fault: str, make: Callable[[], bytes]) -> bytes:
    if fault:
        _log.warning("%s %s; converting the network anew", path, fault)
    else:
        _log.info("converting the network, which takes a few seconds once")
    return make()


def _read(path: Path, versions: str) -> tuple[bytes | None, str]:
    """(what was kept, what is wrong with the file)."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    if not head.startswith(_MARK) or head.split()[-1] != _sum(content):
        return None, "is damaged"
    if head != _head(versions, content):
        return None, "was made by another version"
    return content, ""


def _write(path: Path, versions: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}", delete=False) as file:
        try:
            file.write(_head(versions, content) + b"\n" + content)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _head(versions: str, content: bytes) -> bytes:
    return b" ".join((_MARK, versions.encode(), _sum(content)))


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
