"""Fully sharded data parallelism: every process holds a part of each weight, gradient, moment and average.

torch's `fully_shard` (FSDP2; Zhao et al. 2023, arXiv:2304.11277) is called here and not through accelerate's `prepare`,
which shards one model together with one optimizer and knows nothing of averages, and which silently replicates on a
CPU. accelerate starts the processes and reads the settings (`fsdp_config`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from autoencoder.training.trainable import TrainedVQ
from ldm.training.optimization.blockwise import repeated_blocks


@dataclass(frozen=True)
class Sharding:
    """How networks are split.

    Attributes:
        mesh: the processes, in one dimension.
        reshard: give a block's gathered weights back after its forward pass and gather them again for the backward
            pass. Without it each process holds all weights meanwhile, which is what DeepSpeed calls ZeRO-2.
    """

    mesh: DeviceMesh
    reshard: bool

    @staticmethod
    def requested_by(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin | None) -> "Sharding | None":
        """The sharding that accelerate's `fsdp_config` requests; `None` without one, and for a lone process.

        Raises:
            ValueError: FSDP1, or a setting that is not done here.
        """
        if plugin is None or accelerator.num_processes == 1:
            return None
        unsupported = {
            "fsdp_version: 1": plugin.fsdp_version != 2 and "fsdp_version: 2",
            "fsdp_offload_params: true": isinstance(plugin.cpu_offload, CPUOffloadPolicy) and "false",
            "fsdp_activation_checkpointing: true": plugin.activation_checkpointing and "loop.gradient_checkpointing",
            "mixed_precision: fp16": accelerator.mixed_precision == "fp16" and "bf16",
        }
        for setting, mend in unsupported.items():
            if mend:
                raise ValueError(f"accelerate's {setting} is not supported in sharded training; use {mend}")
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        return Sharding(mesh, bool(plugin.reshard_after_forward))

    def split(self, module: nn.Module) -> None:
        """Leave this process its parts of `module`'s parameters, on its device. Every block gathers for itself.

        A single number, such as CLIP's temperature, has no parts: every process has it, with the mean of all gradients.
        """
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        numbers = {parameter for parameter in module.parameters() if parameter.ndim == 0}
        # Without backward passes in between nobody would give back what the outermost one gathered.
        for part in (*repeated_blocks(module), module):
            reshard = self.reshard or part is module
            fully_shard(part, mesh=self.mesh, reshard_after_forward=reshard, ignored_params=numbers)
            assert isinstance(part, FSDPModule)
            part.set_force_sum_reduction_for_comms(self.mesh.device_type == "cpu")  # gloo does not know averages
        for number in numbers:
            number.data = number.data.to(self.mesh.device_type)
            if number.requires_grad:
                number.register_post_accumulate_grad_hook(self._average)

    def _average(self, number: Tensor) -> None:
        """Make a gradient the mean over all processes. Of accumulated gradients the former ones are that already."""
        assert number.grad is not None
        torch.distributed.all_reduce(number.grad, group=self.mesh.get_group())
        number.grad /= self.mesh.size()


def require_splittable(trained_modules: dict[str, nn.Module]) -> None:
    """Refuse what cannot be sharded.

    Raises:
        ValueError: networks train against each other, or a forward pass writes into weights, which would be thrown
            away with the gathered copy.
    """
    mend = "use configs/accelerate/8-gpus.yaml"
    if len(trained_modules) > 1:
        raise ValueError(f"{' and '.join(trained_modules)} train against each other, which cannot be sharded; {mend}")
    for name, module in trained_modules.items():
        if isinstance(module, TrainedVQ) and module.restarts:
            raise ValueError(
                f"{name}: loss.restart_codes=true puts codes elsewhere in the forward pass, which cannot be sharded;"
                f" set it to false, or {mend}"
            )


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, put together on every process: all of them have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which every process holds whole, split as `like` is (or not at all), in its own dtype."""
    if not isinstance(like, DTensor):
        return value
    mesh: Any = like.device_mesh
    return distribute_tensor(value.to(like.device), mesh, like.placements, src_data_rank=None)


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The sharded tensors and the others, which torch's kernels for lists do not take together; never no list."""
    kinds: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(isinstance(tensor, DTensor), []).append(tensor)
    return list(kinds.values()) or [[]]


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold parts of this network only."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """The tensors as they are, but what is sharded whole and in main memory: no device may have room for all of it.

    All processes have to call this with the same names; those that do not `keep` the tensors get none.
    """
    found = {}
    for name, tensor in tensors.items():
        complete = whole(tensor).cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = complete
    return found
