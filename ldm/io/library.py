"""Models, adapters, words and wildcards by name: in `LDM_HOME`, and in the folders of A1111 and ComfyUI.

Nothing is ever created here but the file of settings, and that only when a setting is made.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.io.disk.files import read_json, write_json
from ldm.naming import look_up

_log = logging.getLogger(__name__)
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SETTINGS = {"models_dir": "folders of A1111, ComfyUI or your own, in which names are looked for after LDM_HOME"}
"""What `ldm config` may set, and what it means."""


@dataclass(frozen=True)
class Kind:
    """What is looked for by name.

    Attributes:
        folders: its places in `LDM_HOME`, ComfyUI and A1111.
        suffixes: of its files.
        index: a file that makes a folder one of them, a model's or an adapter's.
    """

    folders: tuple[str, ...]
    suffixes: tuple[str, ...] = _WEIGHTS
    index: str = ""


KINDS = {
    "models": Kind(
        ("models", "models/checkpoints", "models/Stable-diffusion"), (".safetensors", ".ckpt"), "model_index.json"
    ),
    "loras": Kind(("loras", "models/loras", "models/Lora", "models/LyCORIS"), index="adapter_config.json"),
    "embeddings": Kind(("embeddings", "models/embeddings")),
    "vae": Kind(("vae", "models/vae", "models/VAE"), index="config.json"),
}
_WILDCARDS = ("wildcards", "extensions/sd-dynamic-prompts/wildcards", "extensions/sd-wildcards/wildcards")


def home() -> Path:
    """`LDM_HOME`, by default the user's data folder for this program."""
    return Path(os.environ.get("LDM_HOME") or _user_folder("LOCALAPPDATA", "XDG_DATA_HOME", ".local/share"))


def settings_file() -> Path:
    """The file of settings, in the user's folder for them; `LDM_CONFIG` names another."""
    own = os.environ.get("LDM_CONFIG")
    return Path(own) if own else _user_folder("APPDATA", "XDG_CONFIG_HOME", ".config") / "config.json"


def settings() -> dict[str, list[str]]:
    """What was set, by name.

    Raises:
        ModelFileError: the file is damaged.
        ValueError: it holds something else than lists of folders.
    """
    file = settings_file()
    content = read_json(file) if file.is_file() else {}
    for name, value in content.items():
        if name not in SETTINGS or not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{file}: {name}={value!r} is no setting; {', '.join(SETTINGS)} is a list of folders")
    return content


def set_setting(name: str, folders: Sequence[str]) -> Path:
    """Write a setting, as absolute paths; no folders take it away. Returns the file.

    Raises:
        ValueError: an unknown setting.
        FileNotFoundError: a folder that is not there.
    """
    look_up("setting", name, SETTINGS)
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder; name one that is there")
    content = settings() | {name: [str(Path(folder).resolve()) for folder in folders]}
    write_json(settings_file(), {key: value for key, value in content.items() if value})
    return settings_file()


def entries(kind: str) -> Iterator[tuple[str, Path]]:
    """Name and path of everything of a kind, `LDM_HOME`'s first, each folder in the order of names.

    Args:
        kind: a key of `KINDS`.
    """
    seen: set[Path] = set()
    for folder in _folders(KINDS[kind].folders):
        for path in _within(folder, KINDS[kind]):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path.name if path.is_dir() else path.stem, path


def find(kind: str, name: str) -> Path | None:
    """The file or folder that a name means; None if there is none.

    A name is a file's, with or without suffix, and of any case where none is equal. Of several the first is taken,
    which is said in the log.

    Args:
        kind: a key of `KINDS`.
        name: as a person wrote it.
    """
    everything, folded = list(entries(kind)), name.casefold()
    exact = [path for known, path in everything if name in (known, path.name)]
    found = exact or [path for known, path in everything if folded in (known.casefold(), path.name.casefold())]
    if len(found) > 1:
        _log.warning("%s %s is there %d times: %s is taken, not %s", kind, name, len(found), found[0], found[1])
    return found[0] if found else None


def known_path(kind: str, name: str | Path) -> str:
    """The path of what a name means; what is there as a path, and an unknown name, as it is."""
    return str(name if Path(name).exists() else find(kind, str(name)) or name)


def wildcards() -> Path | None:
    """The first folder of wildcards that is there."""
    return next(_folders(_WILDCARDS), None)


def _folders(places: Sequence[str]) -> Iterator[Path]:
    for root in (home(), *map(Path, settings().get("models_dir", []))):
        # A person may name the program's folder, or `models` inside it.
        inside = dict.fromkeys(place for each in places for place in (each, each.removeprefix("models/")))
        there = [root / place for place in inside if (root / place).is_dir()]
        # Theirs has folders of every kind in `models`, of which those of models are listed themselves.
        yield from (folder for folder in there if not any(other.parent == folder for other in there))


def _within(folder: Path, kind: Kind) -> Iterator[Path]:
    """Files and folders of a kind, also in folders in it."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from [path] if kind.index and (path / kind.index).is_file() else _within(path, kind)
        elif path.suffix.casefold() in kind.suffixes:
            yield path


def _user_folder(windows: str, linux: str, otherwise: str) -> Path:
    if os.name == "nt":
        base = Path(os.environ.get(windows) or Path.home())
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get(linux) or Path.home() / otherwise)
    return base / "ldm"
