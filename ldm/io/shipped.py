"""The models inside the package. Light to import."""

import hashlib
from importlib.resources import files
from pathlib import Path


def shipped_models() -> dict[str, Path]:
    """The models inside the package, by name."""
    root = _models()
    return {path.parent.name: path.parent for path in sorted(root.glob("*/model_index.json"))}


def shipped_restorers() -> dict[str, Path]:
    """The restorers inside the package, by name."""
    root = _models()
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def changed_files(name: str) -> list[str]:
    """Files of a shipped model that are missing or differ from `models/SHA256SUMS`, as `name/file`, sorted."""
    root = _models()
    changed = []
    for line in (root / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, file = line.partition("  ")
        if not file.startswith(f"{name}/"):
            continue
        path = root / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            changed.append(file)
    return sorted(changed)


def _models() -> Path:
    return Path(str(files("ldm"))) / "models"
