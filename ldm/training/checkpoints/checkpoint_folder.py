"""The checkpoints of a training as a folder: which there are, which are whole, which may go. Needs no torch.

Every checkpoint is a folder named after the samples seen, with a manifest of the sha256 of its files. `latest` names
the newest; hidden names are unfinished work.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from ldm.io.disk.files import write_file

MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
_log = logging.getLogger(__name__)


def path_of(folder: Path, samples_seen: int) -> Path:
    """Where the checkpoint of this clock lies."""
    return folder / f"{samples_seen:012d}"


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / MANIFEST).is_file())


def read_state(path: Path) -> dict[str, Any]:
    """The clock and counters of a checkpoint."""
    return json.loads((path / STATE).read_text())


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; damaged ones are passed over with a warning."""
    for path in reversed(checkpoints(folder)):
        damaged = damaged_files(path)
        if not damaged:
            return path
        _log.warning("checkpoint %s is damaged (%s); trying the one before", path, ", ".join(damaged))
    return None


def choose(output: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, `None` for a fresh start.

    Args:
        output: folder of the training, which has or will have `checkpoints/`.
        resume: `auto` takes the newest intact one, `never` refuses to train where there is any, else a path.

    Raises:
        ValueError: `never` where there are checkpoints, or all that there are, or the named one, are damaged.
        FileNotFoundError: the named one does not exist.
    """
    folder = output / "checkpoints"
    if resume not in ("auto", "never"):
        path = Path(resume)
        if not (path / MANIFEST).is_file():
            raise FileNotFoundError(f"resume={resume} is no checkpoint; they are the numbered folders in checkpoints/")
        if damaged := damaged_files(path):
            raise ValueError(f"checkpoint {path} is damaged: {', '.join(damaged)}; resume from an older one")
        return path
    present = checkpoints(folder)
    if resume == "never" and present:
        raise ValueError(f"output={output} already holds a training; use resume=auto or another output")
    newest = newest_intact(folder)
    if present and newest is None:
        raise ValueError(f"all {len(present)} checkpoints in {folder} are damaged; restore one or use another output")
    return newest


def tidy(folder: Path, resumed: Path | None) -> None:
    """Make `folder` the past of a training that goes on from `resumed`.

    Unfinished writing that a kill left is deleted. Checkpoints from later than `resumed` belong to another course of
    the training (or are damaged): they are kept under another name, so that they neither block nor replace new ones.
    """
    for left in (*folder.glob(".*.tmp"), *folder.glob(".*.partial")):
        shutil.rmtree(left, ignore_errors=True)
    if resumed is None or resumed.resolve().parent != folder.resolve():
        return
    for later in checkpoints(folder):
        if later.name > resumed.name:
            aside = next(p for n in range(10**6) if not (p := folder / f"aside-{later.name}-{n}").exists())
            later.rename(aside)
            _log.warning("checkpoint %s is later than %s and was set aside as %s", later, resumed.name, aside.name)
    mark_latest(folder, resumed)


def mark_latest(folder: Path, path: Path) -> None:
    """Let the file `latest` name `path`."""
    write_file(folder / LATEST, (path.name + "\n").encode())


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints and those that are marked to stay.

    One that goes is hidden first, so that a kill on the way never leaves half of it under its name.
    """
    passing = [path for path in checkpoints(folder) if not _stays(path)]
    for old in passing[:-keep]:
        hidden = old.with_name(f".{old.name}.old.tmp")
        old.rename(hidden)
        shutil.rmtree(hidden)


def _stays(path: Path) -> bool:
    try:
        return bool(read_state(path).get("stays", False))
    except (OSError, ValueError):  # damaged
        return False


def write_manifest(folder: Path) -> None:
    """List the sha256 of every file in a checkpoint that is otherwise complete."""
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")


def damaged_files(path: Path) -> list[str]:
    """The files of a checkpoint that are missing or not as its manifest says."""
    try:
        digests = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return [MANIFEST]
    return [name for name, digest in digests.items() if not (path / name).is_file() or _sha256(path / name) != digest]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
