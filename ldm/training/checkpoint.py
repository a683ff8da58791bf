"""Checkpoints: whole or absent, verified, and free of pickle.

A checkpoint is a folder named after the samples seen. It is written beside its final place, synced, listed in a
manifest with the sha256 of every file, and renamed; older ones are deleted only afterwards.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.io.files import write_folder

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"


@dataclass
class PlayerState:
    """What one player needs to go on: weights in training, their average, and the optimizer's moments."""

    module: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer


def save_checkpoint(
    folder: Path, players: dict[str, PlayerState], samples_seen: int, config_yaml: str, keep: int
) -> Path:
    """Write `folder/<samples seen>` and drop all but the `keep` newest checkpoints. Returns its path."""
    target = folder / f"{samples_seen:012d}"
    with write_folder(target) as temporary:
        for name, player in players.items():
            save_file(_contiguous(player.module.state_dict()), temporary / f"{name}.safetensors")
            save_file(_contiguous(player.average.state_dict()), temporary / f"{name}_ema.safetensors")
            save_file(_moments(player), temporary / f"{name}_optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"samples_seen": samples_seen}) + "\n")
        (temporary / "config.yaml").write_text(config_yaml)
        digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / _MANIFEST).is_file())


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; damaged ones are passed over with a warning."""
    for path in reversed(checkpoints(folder)):
        damaged = _damaged_files(path)
        if not damaged:
            return path
        _log.warning("checkpoint %s is damaged (%s); trying the one before", path, ", ".join(damaged))
    return None


def load_checkpoint(path: Path, players: dict[str, PlayerState]) -> int:
    """Fill `players` from a checkpoint in place and return the samples seen.

    Raises:
        ValueError: a file does not match the manifest, or belongs to another network.
    """
    if damaged := _damaged_files(path):
        raise ValueError(f"checkpoint {path} is damaged: {', '.join(damaged)}; resume from an older one")
    for name, player in players.items():
        try:
            player.module.load_state_dict(load_file(path / f"{name}.safetensors"))
            player.average.load_state_dict(load_file(path / f"{name}_ema.safetensors"))
        except (RuntimeError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"checkpoint {path} does not fit {name}: {reason}; use its own config.yaml") from error
        _restore_moments(player, load_file(path / f"{name}_optimizer.safetensors"))
    return int(json.loads((path / "state.json").read_text())["samples_seen"])


def _moments(player: PlayerState) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors named `<moment>.<parameter>`."""
    names = {id(parameter): name for name, parameter in player.module.named_parameters()}
    state = player.optimizer.state
    return _contiguous(
        {
            f"{moment}.{names[id(parameter)]}": torch.as_tensor(value)
            for parameter, moments in state.items()
            for moment, value in moments.items()
        }
    )


def _restore_moments(player: PlayerState, tensors: dict[str, Tensor]) -> None:
    parameters = dict(player.module.named_parameters())
    player.optimizer.state.clear()
    for key, value in tensors.items():
        moment, name = key.split(".", 1)
        parameter = parameters[name]
        if value.ndim:  # in the parameter's own memory format, or the update would run a different kernel
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        player.optimizer.state[parameter][moment] = value


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _damaged_files(path: Path) -> list[str]:
    digests = json.loads((path / _MANIFEST).read_text())
    return [name for name, digest in digests.items() if not (path / name).is_file() or _sha256(path / name) != digest]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
