"""One training per output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_trainer(output: Path) -> Iterator[None]:
    """Hold `output` while the block runs; the system lets go of it however the process ends.

    Raises:
        ValueError: another process holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"output={output} is being trained by another process; stop that one or use another output"
                ) from None
            except OSError:  # a file system without locks
                pass
        yield
