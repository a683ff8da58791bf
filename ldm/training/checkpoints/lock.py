"""One training per output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.io.disk.lock import hold


@contextmanager
def only_trainer(output: Path) -> Iterator[None]:
    """Hold `output` while the block runs; the system lets go of it however the process ends.

    Raises:
        ValueError: another process holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with hold(output / ".lock") as held:
        if not held:
            raise ValueError(
                f"output={output} is being trained by another process; stop that one or use another output"
            )
        yield
