"""A player in safetensors files: weights, averages and the moments of its optimizers."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.training.player import Player

_log = logging.getLogger(__name__)


def write_player(folder: Path, name: str, player: Player) -> None:
    """Write `<name>.safetensors`, `<name>_ema.safetensors`, `<name>_ema_<half-life>.safetensors` for further averages,
    and `<name>_optimizer.safetensors` into an existing folder."""
    save_file(_contiguous(player.module.state_dict()), folder / f"{name}.safetensors")
    for number, average in enumerate(player.averages):
        save_file(_contiguous(average.module.state_dict()), folder / _average_file(name, number, average.half_life))
    save_file(_moments(player), folder / f"{name}_optimizer.safetensors")


def read_player(folder: Path, name: str, player: Player) -> None:
    """Fill `player` in place from what `write_player` left.

    An average that the files lack starts from the main one, and that is said.

    Raises:
        ValueError: the files are of another network; names a tensor that differs.
    """
    _fill(player.module, folder / f"{name}.safetensors")
    main = folder / _average_file(name, 0, 0)
    for number, average in enumerate(player.averages):
        path = folder / _average_file(name, number, average.half_life)
        if not path.is_file():
            _log.warning("%s has no average of half-life %g; it starts from the main one", folder, average.half_life)
            path = main
        _fill(average.module, path)
    _restore_moments(player, load_file(folder / f"{name}_optimizer.safetensors"))


def _average_file(name: str, number: int, half_life: float) -> str:
    return f"{name}_ema_{half_life:g}.safetensors" if number else f"{name}_ema.safetensors"


def _fill(module: nn.Module, path: Path) -> None:
    tensors, own = load_file(path), module.state_dict()
    for key in sorted(own.keys() | tensors.keys()):
        there, here = (tuple(found[key].shape) if key in found else "absent" for found in (tensors, own))
        if there != here:
            raise ValueError(f"{key} is {there} there and {here} in this config")
    module.load_state_dict(tensors)


def _moments(player: Player) -> dict[str, Tensor]:
    """The optimizers' states as flat tensors named `<moment>.<parameter>`."""
    names = {id(parameter): name for name, parameter in player.module.named_parameters()}
    return _contiguous(
        {
            f"{moment}.{names[id(parameter)]}": torch.as_tensor(value)
            for optimizer in player.optimizers
            for parameter, moments in optimizer.state.items()
            for moment, value in moments.items()
        }
    )


def _restore_moments(player: Player, tensors: dict[str, Tensor]) -> None:
    parameters = dict(player.module.named_parameters())
    owners = {id(p): o for o in player.optimizers for group in o.param_groups for p in group["params"]}
    for optimizer in player.optimizers:
        optimizer.state.clear()
    for key, value in tensors.items():
        moment, name = key.split(".", 1)
        parameter = parameters[name]
        restored: Tensor | int = value
        if value.shape == parameter.shape and value.ndim:
            # In the parameter's own memory format, or the update would run a different kernel.
            restored = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        elif value.ndim:
            restored = value.to(parameter.device)
        elif not value.is_floating_point():
            restored = int(value)  # bitsandbytes counts its steps in a Python number
        owners[id(parameter)].state[parameter][moment] = restored


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
