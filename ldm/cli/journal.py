"""What of a file of prompts is finished: a line of JSON for each picture, beside the pictures."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.generation.request import Request

JOURNAL = ".ldm-prompts.jsonl"


class Journal:
    """The pictures of earlier runs, by the key of their line and their number in it.

    A line is added, and on the disk, when a picture is whole; a last line that was cut by the end of a process is
    passed over. A picture counts while its file is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / JOURNAL
        self._seeds: dict[str, dict[str, Any]] = {}
        self._names: dict[str, dict[int, str]] = {}
        lines = self._file.read_text(encoding="utf-8", errors="replace").split("\n") if self._file.is_file() else []
        self._torn = bool(lines and lines[-1])
        for line in lines:
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if "seeds" in entry:  # a line was begun, perhaps anew
                self._seeds[entry["key"]], self._names[entry["key"]] = dict(entry["seeds"]), {}
            else:
                self._names[entry["key"]][int(entry["number"])] = str(entry["file"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def seeds(self, key: str) -> dict[str, Any] | None:
        """With which seeds a line was begun; None if it was not."""
        return self._seeds.get(key)

    def picture(self, key: str, number: int) -> Path | None:
        """A finished picture's file."""
        name = self._names.get(key, {}).get(number)
        return self._folder / name if name is not None and (self._folder / name).is_file() else None

    def begin(self, key: str, seeds: Mapping[str, Any]) -> None:
        """A line is begun; pictures of it that an earlier run finished count no longer."""
        self._add({"key": key, "seeds": dict(seeds)})

    def finish(self, key: str, number: int, path: Path) -> None:
        """A picture is whole."""
        self._add({"key": key, "number": number, "file": path.name})

    def _add(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False)
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if self._torn else f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        self._read(line)


def request_key(request: Request, *more: str) -> str:
    """A request in sixteen letters: another one as soon as any setting differs."""
    content = json.dumps([request.values(), *more], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
