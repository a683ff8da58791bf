"""A training as a YAML file: reading it into the dataclass of its stage, with errors that name the mend."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.naming import nearest
from ldm.training.stages.shipped_configs import find_config
from ldm.training.stages.table import STAGES, AnyRun

_FORMER = {
    "setting": {
        "loop.player_lr": "it is called loop.lr_multiplier now",
        "sketch": "it is called image_tokens now",
        "upscaler": "that stage is no more; task: restorer took its place, with a section restorer",
    },
    "task": {
        "sketch": "it is called image_tokens now",
        "upscaler": "restorer took its place, which enlarges too: task: restorer, as in configs/restorer.yaml",
    },
}
"""Names of former versions, and what is said where nothing here is called that."""


def load_run(config: str | Path, overrides: Sequence[str] = ()) -> AnyRun:
    """Read a run from YAML and `a.b=c` overrides.

    Args:
        config: path of a file, or name of a config that comes with the package.
        overrides: settings that differ.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key (the nearest known one is named), a value of the wrong type, or a value out of range.
    """
    path = find_config(config)
    settings = [f"{each}''" if each.endswith("=") else each for each in overrides]  # a=, an empty text, is null in YAML
    try:
        loaded = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(settings))
    except OmegaConfBaseException as error:
        raise ValueError(f"config {path}: {_first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"config {path} is not a mapping of settings")
    task = loaded.get("task")
    if task not in STAGES:
        raise ValueError(f"config {path}: task={task!r}; {_hint('task', str(task), STAGES)}")
    _refuse_unknown_keys(loaded, STAGES[task], "")
    return _fill(loaded, STAGES[task], path)


def _fill(loaded: DictConfig, kind: type[AnyRun], path: Path) -> AnyRun:
    schema = OmegaConf.structured(kind)
    OmegaConf.set_readonly(schema, False)
    for node in schema.values():
        if isinstance(node, DictConfig):
            OmegaConf.set_readonly(node, False)
    try:
        run = OmegaConf.to_object(OmegaConf.merge(schema, loaded))
    except OmegaConfBaseException as error:
        raise ValueError(f"config {path}: {_first_line(error)}") from error
    assert isinstance(run, kind)
    if not run.output:
        raise ValueError(f"config {path}: output is empty; name the folder that receives the training")
    return run


def _refuse_unknown_keys(loaded: DictConfig, kind: type[Any], prefix: str) -> None:
    known = get_type_hints(kind)
    for key in map(str, loaded):
        if key not in {f.name for f in fields(kind)}:
            raise ValueError(f"unknown setting {prefix}{key}; {_hint('setting', f'{prefix}{key}', known)}")
        if is_dataclass(known[key]) and isinstance(loaded[key], DictConfig):
            _refuse_unknown_keys(loaded[key], known[key], f"{prefix}{key}.")  # type: ignore[arg-type]
        for item in get_args(known[key]):
            if is_dataclass(item) and isinstance(loaded[key], ListConfig):
                for number, each in enumerate(loaded[key]):
                    if isinstance(each, DictConfig):
                        _refuse_unknown_keys(each, item, f"{prefix}{key}[{number}].")  # type: ignore[arg-type]


def _hint(kind: str, name: str, known: Iterable[str]) -> str:
    """What has become of a former name, else the nearest known ones to the last part of a dotted name."""
    return _FORMER[kind].get(name) or nearest(name.rpartition(".")[2], known)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
