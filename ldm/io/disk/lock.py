"""Who may write a file: asked of the system, which lets go of it however a process ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`, which is made if need be, while the block runs. Its folder must exist.

    Gives whether it could be had: False while another process holds it. Where there are no locks everyone gets True.
    """
    with path.open("w") as file:
        if fcntl is None:
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        yield True
