"""Files that are whole or not there: atomic writing, and reading that says what is wrong and what to do."""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ldm.io.disk.partial import clear_abandoned, partial_of

_LARGEST_JSON = 2**27  # bytes; an index of the largest models has a few million


class ModelFileError(OSError):
    """A model file is missing, damaged or says what we cannot do; the message names the file and the mend."""


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never outlives the bytes it points to."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replace_file(path: Path, new: bool = False) -> Iterator[BinaryIO]:
    """Give a temporary file to write; when the block ends well it becomes `path`, else `path` is as before.

    new: never replace a file, also not one that another process makes meanwhile.

    Raises OSError (disk full, no permission) with `path` as its `filename`; FileExistsError with `new`.
    """
    temporary = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(path)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        (_rename_to_new if new else os.replace)(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
        raise


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file in one step, unless the name is taken: FileExistsError."""
    if os.name == "nt":  # where a rename never replaces
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is claimed by an empty file
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)
    else:
        temporary.unlink()


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: afterwards the file is the new one or, after any exception, the old one.

    Raises OSError (disk full, no permission) with `path` as its `filename`.
    """
    with replace_file(path) as file:
        file.write(data)


def write_new_file(paths: Iterable[Path], data: bytes) -> Path:
    """Write `data` to the first of `paths` that does not exist, which it claims against other processes. Returns it.

    The file is whole or not there. Raises OSError (disk full, no permission) with the path as its `filename`.
    """
    for path in paths:
        try:
            if not os.path.lexists(path):
                with replace_file(path, new=True) as file:
                    file.write(data)
                return path
        except FileExistsError:
            if not os.path.lexists(path):  # it is the folder that is a file
                raise
    raise FileExistsError("every name is taken")


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; when the block ends well it becomes `path`, otherwise it vanishes.

    A missing or empty `path` appears in one rename. In a `path` that holds files already, each new file replaces
    the old one of its name in one rename and other files stay: a person may keep more there than we wrote.

    Raises OSError (disk full, no permission), also where safetensors has an error class of its own for it.
    """
    temporary = partial_of(path)
    temporary.mkdir(parents=True)
    clear_abandoned(path)
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if path.is_dir() and any(path.iterdir()):
            for source in sorted(file for file in temporary.rglob("*") if file.is_file()):
                target = path / source.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
        else:
            os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise OSError(f"{path} cannot be written: {error}; free some space or use another folder") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ModelFileError if it is missing, damaged or not an object."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_JSON:
            what = "is no file" if not stat.S_ISREG(status.st_mode) else f"is of {size_in_words(status.st_size)}"
            raise ModelFileError(f"{path} {what}, not a model's JSON; copy or download it again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; copy or download the model again") from None
    except RecursionError:
        raise ModelFileError(f"{path} is nested too deep for a model's JSON; copy or download it again") from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON ({error}); copy or download it again") from None
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds {type(content).__name__} where an object {{...}} belongs")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` atomically, readable by a person."""
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def find_weights(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The safetensors files that hold the weights `stem` in `folder`: one file, or the shards of its index.

    variant: e.g. `fp16`; taken where it is there, else the plain ones. Without it, `fp16` is taken where there is
    nothing else that is whole.

    Raises ModelFileError if there is none; a pickle is never opened.
    """
    incomplete: list[Path] = []
    for ending in dict.fromkeys(f".{each}" if each else "" for each in (variant, None, "fp16")):
        if (folder / f"{stem}{ending}.safetensors").is_file():
            return [folder / f"{stem}{ending}.safetensors"]
        index = folder / f"{stem}.safetensors.index{ending}.json"
        if index.is_file():
            shards = _shards(index)
            if all(shard.is_file() for shard in shards):
                return shards
            incomplete = incomplete or shards
    if incomplete:
        return incomplete  # whoever opens them names the missing one
    pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickles:
        raise ModelFileError(
            f"{folder / pickles[0]} is a pickle, which may run code when opened; "
            f"`ldm convert {folder.parent} NEW --to safetensors` writes the model without any"
        )
    raise ModelFileError(f"{folder / stem}.safetensors is missing; copy or download the model again")


def _shards(index: Path) -> list[Path]:
    """The files that an index names."""
    map_of = read_json(index).get("weight_map")
    if not isinstance(map_of, dict) or not all(_is_file_name(name) for name in map_of.values()):
        raise ModelFileError(f"{index}: weight_map is not an object of file names; copy or download it again")
    return [index.parent / name for name in sorted(set(map_of.values()))]


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) < 256 and name.isprintable() and Path(name).name == name


def has_variant(path: Path, variant: str) -> bool:
    """Whether any part of a model folder has weights of a variant such as `fp16`."""
    endings = (f".{variant}.safetensors", f".index.{variant}.json")
    return any(file.name.endswith(endings) for file in path.glob("*/*"))


def free_space(path: Path) -> int:
    """Bytes that are free on the disk that `path` is on, or will be once it is made."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def size_in_words(number: float) -> str:
    """A number of bytes for a person: `1.23 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
