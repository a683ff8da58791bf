"""One training per output folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.io.disk.lock import hold


class FolderLostError(ValueError):
    """The folder of a running training is no longer its own."""


class FolderLock:
    """The lock of an output folder, held by this process."""

    def __init__(self, output: Path) -> None:
        self._output, self._path = output, output / ".lock"
        self._held = self._path.stat()

    def check(self) -> None:
        """Make sure that the folder is still the one that is held, before something is written into it.

        Raises:
            FolderLostError: it was moved, removed or replaced, which frees its name for another training.
        """
        try:
            own = os.path.samestat(self._path.stat(), self._held)
        except (FileNotFoundError, NotADirectoryError):
            own = False
        if not own:
            raise FolderLostError(
                f"output={self._output} was moved, removed or taken over while it was trained; the training stopped and"
                " wrote nothing more: start it again with output= where the folder is now"
            )


@contextmanager
def only_trainer(output: Path) -> Iterator[FolderLock]:
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
        yield FolderLock(output)
