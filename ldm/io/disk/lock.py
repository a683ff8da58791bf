"""Who may write a file, agreed between processes; a lock is let go of however its process ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`, which is made if need be, while the block runs. Its folder must exist.

    Args:
        path: a file of its own, that nothing else is written to.
        wait: until nobody else holds it.

    Yields:
        Whether it could be had: False while someone else holds it, never with `wait`.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
