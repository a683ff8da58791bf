"""Unfinished files and folders: hidden, named after their writer, so that the next one clears away what a kill left."""

import os
import re
import secrets
import shutil
from pathlib import Path

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.([0-9]{1,9})\.partial")


def partial_of(path: Path) -> Path:
    """A fresh name for what is to become `path`: hidden, beside it, because renames are atomic in one file system."""
    return path.with_name(f".{_stem(path)}.{secrets.token_hex(4)}.{os.getpid()}.partial")


def clear_abandoned(path: Path) -> None:
    """Delete what processes that no longer run left unfinished beside `path`, whatever it was to become."""
    for left in path.parent.glob(".*.partial"):
        named = _PARTIAL.fullmatch(left.name)
        if named is not None and not _runs(int(named[1])):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    return path.name[:60]


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C, and nothing else here can tell
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and belongs to someone else
        return True
    try:  # in a container a killed process may stay in the table with nobody to collect it
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")
