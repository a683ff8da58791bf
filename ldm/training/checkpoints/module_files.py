"""A trained module in safetensors files: weights, averages and the moments of its optimizers."""

import logging
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.training.distributed.fsdp import gathered, split_like
from ldm.training.optimization.trained_module import TrainedModule, frozen_names

_log = logging.getLogger(__name__)


def module_files(name: str, trained_module: TrainedModule, keep: bool) -> dict[str, dict[str, Tensor]]:
    """The tensors of a trained module, by the names of the files that hold them.

    The files are `<name>.safetensors`, `<name>_ema.safetensors`, `<name>_ema_<half-life>.safetensors` for further
    averages, and `<name>_optimizer.safetensors`, with moments as `<moment>.<parameter>`.

    Frozen parameters are left out: whoever builds the module for a resume builds them as they were.

    What is sharded is put together, in the memory of the processes that `keep` it: all have to call this.
    """
    files = {f"{name}.safetensors": trained_module.trained_state(trained_module.module)}
    for number, average in enumerate(trained_module.averages):
        files[_average_file(name, number, average.half_life)] = trained_module.trained_state(average.module)
    found = {file: gathered(tensors, keep) for file, tensors in files.items()}
    found[f"{name}_optimizer.safetensors"] = trained_module.update.moments(keep)
    return found


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one of `module_files`."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_module(folder: Path, name: str, trained_module: TrainedModule) -> None:
    """Fill `trained_module` in place from these files.

    An average that the files lack starts from the main one, and that is said.

    Raises:
        ValueError: the files are of another network; names a tensor that differs.
    """
    frozen = frozen_names(trained_module.module)
    _fill(trained_module.module, frozen, folder / f"{name}.safetensors")
    main = folder / _average_file(name, 0, 0)
    for number, average in enumerate(trained_module.averages):
        path = folder / _average_file(name, number, average.half_life)
        if not path.is_file():
            _log.warning("%s has no average of half-life %g; it starts from the main one", folder, average.half_life)
            path = main
        _fill(average.module, frozen, path)
    trained_module.update.go_on(load_file(folder / f"{name}_optimizer.safetensors"))


def _average_file(name: str, number: int, half_life: float) -> str:
    return f"{name}_ema_{half_life:g}.safetensors" if number else f"{name}_ema.safetensors"


def _fill(module: nn.Module, frozen: set[str], path: Path) -> None:
    tensors, own = load_file(path), module.state_dict()
    for key in sorted(own.keys() - frozen | tensors.keys()):  # older files hold what is frozen too
        there, here = (tuple(found[key].shape) if key in found else "absent" for found in (tensors, own))
        if there != here:
            raise ValueError(f"{key} is {there} there and {here} in this config")
    module.load_state_dict({key: split_like(value, own[key]) for key, value in tensors.items()}, strict=False)
