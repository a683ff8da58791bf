"""A player in safetensors files: weights, averages and the moments of its optimizers."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.training.player import Player
from ldm.training.sharding import gathered, split_like

_log = logging.getLogger(__name__)


def player_files(name: str, player: Player, keep: bool) -> dict[str, dict[str, Tensor]]:
    """The tensors of `<name>.safetensors`, `<name>_ema.safetensors`, `<name>_ema_<half-life>.safetensors` for further
    averages, and `<name>_optimizer.safetensors`, with moments as `<moment>.<parameter>`, by the names of the files.

    What is sharded is put together, in the memory of the processes that `keep` it: all have to call this.
    """
    files = {f"{name}.safetensors": player.module.state_dict()}
    for number, average in enumerate(player.averages):
        files[_average_file(name, number, average.half_life)] = average.module.state_dict()
    files[f"{name}_optimizer.safetensors"] = _moments(player)
    return {file: gathered(tensors, keep) for file, tensors in files.items()}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one of `player_files`."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_player(folder: Path, name: str, player: Player) -> None:
    """Fill `player` in place from these files.

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
    module.load_state_dict({key: split_like(value, own[key]) for key, value in tensors.items()})


def _moments(player: Player) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in player.module.named_parameters()}
    return {
        f"{moment}.{names[id(parameter)]}": torch.as_tensor(value)
        for optimizer in player.optimizers
        for parameter, moments in optimizer.state.items()
        for moment, value in moments.items()
    }


def _restore_moments(player: Player, tensors: dict[str, Tensor]) -> None:
    parameters = dict(player.module.named_parameters())
    owners = {id(p): (o, group) for o in player.optimizers for group in o.param_groups for p in group["params"]}
    for optimizer in player.optimizers:
        optimizer.state.clear()
    for key, value in tensors.items():
        moment, name = key.split(".", 1)
        parameter = parameters[name]
        optimizer, group = owners[id(parameter)]
        restored: Tensor | int = value
        if value.shape == parameter.shape and value.ndim:
            # In the parameter's own memory format, or the update would run a different kernel.
            restored = torch.empty_like(parameter, dtype=value.dtype).copy_(split_like(value, parameter))
        elif value.ndim or group.get("fused"):  # fused kernels count steps on the device
            restored = value.to(parameter.device)
        elif not value.is_floating_point():
            restored = int(value)  # bitsandbytes counts its steps in a Python number
        optimizer.state[parameter][moment] = restored
