"""The checkpoints of a training as a folder: which there are, which are whole, which may go. Needs no torch.

Every checkpoint is a folder named after the samples seen, with a manifest of the sha256 of its files. `latest` names
the newest; hidden names are unfinished work. Whatever has a number for its name counts as a checkpoint: one without a
manifest is a damaged one, because ours appear under their names with everything in them.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ldm.io.disk.files import write_file

MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
_REQUIRED_STATE: dict[str, type] = {"samples_seen": int, "optimizer": str}
_OPTIONAL_STATE: dict[str, type] = {"skipped": int, "skipped_in_a_row": int, "loss_scale": dict, "stays": bool}
_log = logging.getLogger(__name__)


def path_of(folder: Path, samples_seen: int) -> Path:
    """Where the checkpoint of this clock lies."""
    return folder / f"{samples_seen:012d}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or damaged, oldest first."""
    numbered = (path for path in folder.glob("[0-9]*") if path.name.isascii() and path.name.isdecimal())
    return sorted(numbered, key=lambda path: (int(path.name), path.name))


def read_state(path: Path) -> dict[str, Any]:
    """The clock and counters of a checkpoint.

    Raises:
        OSError: there is no such file.
        ValueError: it is not what we write: a field is missing or of another type.
    """
    state = _json_object(path / STATE)
    for name, kind in (_REQUIRED_STATE | _OPTIONAL_STATE).items():
        if name not in state and name in _OPTIONAL_STATE:
            continue
        if type(state.get(name)) is not kind or (kind is int and state[name] < 0):
            raise ValueError(f"{path / STATE}: {name}={state.get(name)!r} is not of a checkpoint")
    return state


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning."""
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
        if not (path / MANIFEST).is_file() and path not in checkpoints(path.parent):
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

    Unfinished writing that a kill left is deleted. Checkpoints from later than `resumed`, and all where that one is of
    another folder, belong to another course of the training (or are damaged): they are kept under another name, so
    that they neither block nor replace new ones.
    """
    for left in (*folder.glob(".*.tmp"), *folder.glob(".*.partial")):
        shutil.rmtree(left, ignore_errors=True)
    if resumed is None:
        return
    own = resumed.resolve().parent == folder.resolve()
    for other in checkpoints(folder):
        if not own or int(other.name) > int(resumed.name):
            set_aside(other)
    if own:
        mark_latest(folder, resumed)


def set_aside(path: Path) -> None:
    """Keep a checkpoint that is in the way of another one under a name that no training looks at."""
    aside = next(p for n in range(10**6) if not os.path.lexists(p := path.with_name(f"aside-{path.name}-{n}")))
    path.rename(aside)
    _log.warning("checkpoint %s is damaged or of another course and was set aside as %s", path, aside.name)


def mark_latest(folder: Path, path: Path) -> None:
    """Let the file `latest` name `path`."""
    write_file(folder / LATEST, (path.name + "\n").encode())


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, those that are marked to stay and those that cannot be read.

    One that goes is hidden first, so that a kill on the way never leaves half of it under its name.
    """
    passing = [path for path in checkpoints(folder) if _may_go(path)]
    for old in passing[:-keep]:
        hidden = old.with_name(f".{old.name}.old.tmp")
        old.rename(hidden)
        shutil.rmtree(hidden)


def _may_go(path: Path) -> bool:
    try:
        return (path / MANIFEST).is_file() and not read_state(path).get("stays", False)
    except (OSError, ValueError):  # damaged: a person may still mend it
        return False


def write_manifest(folder: Path) -> None:
    """List the sha256 of every file in a checkpoint that is otherwise complete."""
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")


def damaged_files(path: Path) -> list[str]:
    """The files of a checkpoint that are missing, not as its manifest says, or not what a checkpoint holds."""
    try:
        digests = _json_object(path / MANIFEST)
    except (OSError, ValueError):
        return [MANIFEST]
    weights = {file.name for file in path.glob("*.safetensors")}
    if not digests:
        return [MANIFEST]
    damaged = {name for name, digest in digests.items() if not _is_file(path / name, digest)}
    damaged |= {name for name in weights if name not in digests or not _opens(path / name)}
    try:
        state = read_state(path)
        if path.name.isdecimal() and int(path.name) != state["samples_seen"]:
            damaged.add(STATE)
    except (OSError, ValueError):
        damaged.add(STATE)
    return sorted(damaged)


def _is_file(path: Path, digest: Any) -> bool:
    return path.is_file() and _sha256(path) == digest


def _opens(path: Path) -> bool:
    """Whether the header of a safetensors file fits its length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold an object")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
