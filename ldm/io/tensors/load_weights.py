"""Networks whose parameters come straight from a file, in the wanted type, without random ones before them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm.io.disk.files import ModelFileError
from ldm.io.tensors.weights import Weights

AnyModule = TypeVar("AnyModule", bound=nn.Module)
FILE_PLAN = "the rest of the file"
"""The name in error messages for what describes the weights of a file without a config."""


def load_weights(
    build: Callable[[], AnyModule], weights: Weights, where: str, dtype: torch.dtype, plan: str = "its config.json"
) -> AnyModule:
    """The network that `build` makes, with `weights` in place of its random ones, which are never made.

    All names and shapes are checked before the first number is read. A weight that is stored in `dtype` already is
    mapped from its file, any other is converted alone: memory holds the network and one tensor. The network comes in
    eval mode, without gradients, on the CPU.

    Args:
        build: makes the network.
        weights: by name.
        where: the file, for errors.
        dtype: of the weights in memory.
        plan: what says which weights there should be, for errors.

    Raises:
        ModelFileError: a weight is missing, left over or of another shape; names `where` and the first such weight.
    """
    network = on_meta(build)
    check_fit({name: tuple(value.shape) for name, value in network.state_dict().items()}, weights, where, plan)
    state = {name: weight.read(dtype) for name, weight in weights.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def on_meta(build: Callable[[], AnyModule]) -> AnyModule:
    """A network without numbers: its names and shapes only."""
    with torch.device("meta"), _NoInitialValues():
        return build()


class _NoInitialValues(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which takes most of the time of building a network that has no numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def check_fit(wanted: Mapping[str, tuple[int, ...]], weights: Weights, where: str, plan: str) -> None:
    """Raise ModelFileError unless the weights have exactly the wanted names and shapes, and are of floating point."""
    for name, shape in wanted.items():
        if name not in weights:
            raise ModelFileError(f"{where}: the weights lack {name}; they do not belong to {plan}")
        if weights[name].shape != shape:
            raise ModelFileError(f"{where}: {name} is {weights[name].shape} where {plan} asks for {shape}")
        if not weights[name].dtype.is_floating_point:
            raise ModelFileError(f"{where}: {name} is stored as {weights[name].dtype}, which is no weight of a network")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise ModelFileError(f"{where}: {plan} has no place for {extra[0]} and {len(extra) - 1} more weights")


def cpu_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network on the CPU, without gradients."""
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}
