"""The line files of a training: one JSON object a line, each with its clock `samples`. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from ldm.io.disk.files import write_file

STATS, SKIPPED = "stats.jsonl", "skipped.jsonl"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be missing, cut off by a kill, or written to right now."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict) and "samples" in content:
            found.append(content)
    return found


def drop_lines_beyond(path: Path, samples_seen: int) -> None:
    """Keep the whole lines up to a clock."""
    if not path.exists():
        return
    kept = "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["samples"] <= samples_seen).encode()
    if kept != path.read_bytes():  # a full disk is no reason not to go on
        write_file(path, kept)
