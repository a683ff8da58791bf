"""From the gradient of a network to its next weights, and the optimizers' moments as tensors with names."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.distributed.fsdp import by_kind, gathered, split_like, whole


class Update:
    """The update of weights by a process that holds their gradients and moments.

    It holds all of them (a lone process, replicas), or the parts of them that are its own (FSDP).

    Attributes:
        optimizers: together they hold every parameter that requires a gradient, each once.
    """

    def __init__(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        self.module, self.optimizers = module, optimizers

    def start(self, rate: float) -> None:
        """Prepare a step at learning rate `rate`, and forget what is left of a gradient."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)

    def norm(self) -> Tensor:
        """The length of the whole gradient (); not finite if any part of it is not."""
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in by_kind(gradients)]
        return torch.nn.utils.get_total_norm(norms) if len(norms) > 1 else norms[0]

    def step(self, norm: Tensor, clip_norm: float) -> None:
        """Clip the gradient of length `norm` to `clip_norm`, unless that is 0, and move the weights."""
        if clip_norm and norm > clip_norm:
            for kind in by_kind(self.module.parameters()):
                torch.nn.utils.clip_grads_with_norm_(kind, clip_norm, norm)
        for optimizer in self.optimizers:
            optimizer.step()

    def moments(self, keep: bool) -> dict[str, Tensor]:
        """`<moment>.<parameter>`, whole: all processes have to call this; those that do not `keep` them get none."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        found = {
            f"{moment}.{names[id(parameter)]}": torch.as_tensor(value)
            for optimizer in self.optimizers
            for parameter, moments in optimizer.state.items()
            for moment, value in moments.items()
        }
        return gathered(found, keep)

    def go_on(self, moments: dict[str, Tensor]) -> None:
        """Go on from these whole moments, and from the weights as they are now."""
        parameters = dict(self.module.named_parameters())
        owners = {id(p): (o, group) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for key, value in moments.items():
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
