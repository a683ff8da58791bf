"""Pictures that cannot be used, each written down once, whichever process of a training meets it first."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ldm.io.disk.lock import hold

_log = logging.getLogger(__name__)


class BadPictures:
    """A list of bad pictures in a file: one JSON object a line, with `picture` (where it is) and `reason`.

    Workers, processes and resumed trainings share the file, so each picture is logged and listed once.

    Args:
        file: appears with the first bad picture; None only logs.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: set[str] = set()
        self._read = 0

    def report(self, picture: str, reason: str) -> None:
        """Log and list `picture`, unless somebody did so before."""
        if picture in self._known:
            return
        if self._file is not None and not self._list(self._file, picture, reason):
            return
        self._known.add(picture)
        _log.warning("bad picture %s: %s; another one takes its place", picture, reason)

    def _list(self, path: Path, picture: str, reason: str) -> bool:
        """Write a line, unless there is one. Whether it was written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path.with_name(f".{path.name}.lock"), wait=True), path.open("a+b") as file:
            whole = self._learn(file)
            if picture in self._known:
                return False
            line = json.dumps({"picture": picture, "reason": reason}, ensure_ascii=False) + "\n"
            file.write((line if whole else "\n" + line).encode())
        return True

    def _learn(self, file: BinaryIO) -> bool:
        """Take over what others wrote since the last look. Whether it ends with a whole line; a kill may leave half."""
        file.seek(self._read)
        lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                self._known.add(json.loads(line)["picture"])
        return lines == whole
