"""Estimates memory, operations, time, cost and disk space of a training from its configuration alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ldm.io.disk.files import size_in_words
from ldm.training.checkpoints.disk_space import checkpoint_bytes, export_bytes
from ldm.training.config import LoopConfig
from ldm.training.estimate.flops_and_activations import count, saved_activations
from ldm.training.optimization.blockwise import repeated_blocks
from ldm.training.optimization.moments import moment_bytes
from ldm.training.stages.base import NetworkEstimate, StageConfig


@dataclass(frozen=True)
class Hardware:
    """The hardware of a training and its price.

    Attributes:
        processes: how many devices, one process each.
        sharded: split weights, gradients, moments and averages among them (FSDP).
        on_gpu: whether they are GPUs.
        hours: until when the training must be done; 0 for no matter when.
        tflops: arithmetic that a device really does in such a training, in 1e12 operations a second; 0 if unknown.
        price: of a device for an hour, in any currency.
        gigabytes: memory of a device, in 1e9 bytes; 0 if unknown.

    Raises:
        ValueError: a number out of range.
    """

    processes: int = 1
    sharded: bool = False
    on_gpu: bool = True
    hours: float = 0.0
    tflops: float = 0.0
    price: float = 0.0
    gigabytes: float = 0.0

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"--processes {self.processes} must be at least 1")
        for name in ("hours", "tflops", "price", "gigabytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name):g} is negative; use a number above 0, or leave it out")
        if self.sharded and self.processes == 1:
            raise ValueError("--sharded splits among several processes; give --processes 2 or more")


@dataclass(frozen=True)
class Memory:
    """Bytes that one process, the one with the most, holds of one network during a step.

    Attributes:
        weights, gradients, moments: of the network in training.
        averages: all copies of what is trained.
        buckets: what several processes exchange: all gradients once more (DDP), or one block's gathered weights and
            gradients (FSDP).
        activations, checkpointed: kept from the forward pass for the backward pass, without and with
            `loop.gradient_checkpointing`, for one micro-batch.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    buckets: int
    activations: int
    checkpointed: int

    @property
    def full(self) -> int:
        """Everything but averages."""
        return self.weights + self.gradients + self.moments + self.buckets + self.activations

    @property
    def with_averages(self) -> int:
        """Everything."""
        return self.full + self.averages

    @property
    def with_checkpointing(self) -> int:
        """Everything, with gradient checkpointing."""
        return self.with_averages - self.activations + self.checkpointed


@dataclass(frozen=True)
class PlannedNetwork:
    """One trained module.

    Attributes:
        name: of the trained module.
        note: what is not known of it before the training; empty if everything is.
        parameters, trained: how many numbers it has, and how many of them are trained.
        memory: of one process.
        forward_flops, backward_flops: arithmetic of one sample in the forward pass, which checkpointing repeats, and in
            the backward pass.
    """

    name: str
    note: str
    parameters: int
    trained: int
    memory: Memory
    forward_flops: int
    backward_flops: int


@dataclass(frozen=True)
class Estimate:
    """A training before it runs.

    Attributes:
        networks: what is trained. Frozen parts (text encoder, autoencoder, perceptual network) are not counted.
        samples, steps, micro_batch: of the training; the last of one process.
        flops_per_sample: arithmetic of all networks for one sample, as the config has `gradient_checkpointing`.
        checkpoint_bytes, disk_bytes: of one checkpoint; of all that lie on the disk at once, and the export.
        samples_per_second: needed to be done in the given hours, or reached with the given arithmetic; 0 if neither.
        tflops_per_device: needed or given, see `Hardware.tflops`; 0 if unknown.
        hours, cost: of the whole training; 0 if unknown.
    """

    networks: tuple[PlannedNetwork, ...]
    samples: int
    steps: int
    micro_batch: int
    flops_per_sample: int
    checkpoint_bytes: int
    disk_bytes: int
    samples_per_second: float
    tflops_per_device: float
    hours: float
    cost: float


def estimate_training(run: StageConfig, hardware: Hardware, factor: int = 8) -> Estimate:
    """Predict what a run takes on given hardware.

    Args:
        run: settings of the training.
        hardware: the machine.
        factor: see `StageConfig.networks`.

    Raises:
        ValueError: a run that cannot be planned, or whose batch does not divide among the processes.
    """
    loop = run.loop
    if loop.batch_size % hardware.processes:
        raise ValueError(f"loop.batch_size={loop.batch_size} does not divide among {hardware.processes} processes")
    micro_batch = _micro_batch(loop, hardware)
    networks = run.networks(factor)
    modules = [_on_meta(network) for network in networks]
    checkpoint = sum(checkpoint_bytes(module, loop) for module in modules)
    exported = sum(export_bytes(module, loop) for module in modules)
    pairs = zip(networks, modules, strict=True)
    planned = tuple(_network(network, module, loop, hardware, micro_batch) for network, module in pairs)
    repeated = loop.gradient_checkpointing
    flops = sum(each.forward_flops * (1 + repeated) + each.backward_flops for each in planned)
    staying = loop.samples // loop.keep_every if loop.keep_every else 0
    hours, tflops = hardware.hours, hardware.tflops
    if tflops:
        hours = flops * loop.samples / (tflops * 1e12 * hardware.processes) / 3600
    elif hours:
        tflops = flops * loop.samples / (hours * 3600 * hardware.processes) / 1e12
    return Estimate(
        networks=planned,
        samples=loop.samples,
        steps=loop.steps,
        micro_batch=micro_batch,
        flops_per_sample=flops,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (min(loop.keep + 1, loop.steps) + staying) + exported,
        samples_per_second=loop.samples / (hours * 3600) if hours else 0.0,
        tflops_per_device=tflops,
        hours=hours,
        cost=hours * hardware.price * hardware.processes,
    )


def fits(networks: Iterable[Memory], loop: LoopConfig, gigabytes: float) -> bool:
    """Whether what all networks hold together fits into a device, as the config has averages and checkpointing."""
    held = [each.with_checkpointing if loop.gradient_checkpointing else each.with_averages for each in networks]
    return sum(held) <= gigabytes * 1e9


def fit_line(plan: Estimate, run: StageConfig, hardware: Hardware, factor: int = 8) -> str:
    """Whether a training fits into a device, and if not the cheapest change that makes it fit: the first that does."""
    loop, size = run.loop, f"{hardware.gigabytes:g} GB"
    if fits([network.memory for network in plan.networks], loop, hardware.gigabytes):
        return f"memory: fits {size}"
    networks = run.networks(factor)

    @cache
    def activations(micro_batch: int) -> list[tuple[int, int]]:
        return [_activations(network, _on_meta(network), loop, hardware, micro_batch) for network in networks]

    for settings in _cheaper(loop, plan.micro_batch):
        other = replace(loop, **settings)
        kept = zip(networks, activations(_micro_batch(other, hardware)), strict=True)
        memories = [
            replace(_memory(_on_meta(network), other, hardware), activations=total, checkpointed=checkpointed)
            for network, (total, checkpointed) in kept
        ]
        if fits(memories, other, hardware.gigabytes):
            change = " ".join(f"loop.{name}={str(value).lower()}" for name, value in settings.items())
            return f"memory: does not fit {size}; cheapest change: {change}"
    return f"memory: does not fit {size}, whatever loop says; split it with --sharded, or train a smaller network"


def _cheaper(loop: LoopConfig, micro_batch: int) -> Iterator[dict[str, Any]]:
    """Settings that need less memory, from those that cost least: time first, then the optimizer, then averages."""
    smaller = [n for n in (micro_batch // 2, micro_batch // 4, 1) if 0 < n < micro_batch]
    yield from ({"micro_batch_size": n} for n in smaller)
    yield {"gradient_checkpointing": True}
    yield {"gradient_checkpointing": True, "micro_batch_size": 1}
    for optimizer in ("adamw8bit", "adafactor"):
        if loop.optimizer == "adamw":
            yield {"gradient_checkpointing": True, "micro_batch_size": 1, "optimizer": optimizer}
    yield {"gradient_checkpointing": True, "micro_batch_size": 1, "optimizer": "adafactor", "ema_half_life": 0}


def describe(plan: Estimate, run: StageConfig, hardware: Hardware, factor: int = 8) -> str:
    """The plan as lines of text."""
    lines = []
    each_of = f"each of {hardware.processes} processes" if hardware.processes > 1 else "the process"
    for network in plan.networks:
        memory = network.memory
        parts = {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "moments": memory.moments,
            "averages": memory.averages,
            "exchange": memory.buckets,
            "activations": memory.activations,
            "activations, with gradient checkpointing": memory.checkpointed,
            "in all, without averages": memory.full,
            "in all, without averages, with checkpointing": memory.with_checkpointing - memory.averages,
            "in all, with averages": memory.with_averages,
            "in all, with averages and checkpointing": memory.with_checkpointing,
        }
        held = f"{each_of} holds, {plan.micro_batch} samples at once{', sharded' * hardware.sharded}:"
        lines += [f"{network.name}: {network.parameters:,} parameters, {network.trained:,} trained; {held}"]
        lines += [f"  {size_in_words(size):>10}  {name}" for name, size in parts.items()]
        if network.note:
            lines.append(f"  ({network.note})")
    lines += [fit_line(plan, run, hardware, factor)] if hardware.gigabytes else []
    length = f"{plan.samples:,} samples in {plan.steps:,} steps"
    lines += [
        f"arithmetic: {plan.flops_per_sample / 1e12:.4g} TFLOP a sample, {length}",
        f"disk: {size_in_words(plan.checkpoint_bytes)} a checkpoint, {size_in_words(plan.disk_bytes)} in all",
    ]
    if plan.hours:
        cost = f", which cost {plan.cost:,.0f}" if hardware.price else ""
        lines.append(
            f"time: {plan.hours:,.4g} hours at {plan.samples_per_second:,.4g} samples/s, for which each device does"
            f" {plan.tflops_per_device:,.4g} TFLOP/s{cost}"
        )
    else:
        lines.append("time: say --tflops, what a device does, to know the hours; or --hours to know what it must do")
    return "\n".join(lines)


def _micro_batch(loop: LoopConfig, hardware: Hardware) -> int:
    share = loop.batch_size // hardware.processes
    return min(loop.micro_batch_size or share, share)


def _network(
    network: NetworkEstimate, module: nn.Module, loop: LoopConfig, hardware: Hardware, micro_batch: int
) -> PlannedNetwork:
    """The estimate of `module`, the trained module on the meta device, which is unusable afterwards."""
    numbers, trained = _numbers(module.parameters(), 1), _numbers(_trained(module), 1)
    held, arithmetic = _memory(module, loop, hardware), count(module, network.run)
    total, checkpointed = _activations(network, module, loop, hardware, micro_batch)
    return PlannedNetwork(
        name=network.name,
        note=network.note,
        parameters=numbers,
        trained=trained,
        memory=replace(held, activations=total, checkpointed=checkpointed),
        forward_flops=arithmetic.forward,
        backward_flops=arithmetic.backward,
    )


def _activations(
    network: NetworkEstimate, module: nn.Module, loop: LoopConfig, hardware: Hardware, micro_batch: int
) -> tuple[int, int]:
    """Bytes of activations without and with checkpointing. `module` is unusable afterwards."""
    dtype = None if loop.precision == "fp32" or (loop.precision == "auto" and not hardware.on_gpu) else torch.bfloat16
    # Autocast keeps its copies of weights until the forward pass ends; after it one block at a time is repeated.
    copies = 0 if dtype is None else dtype.itemsize * _numbers((p for p in module.parameters() if p.ndim > 1), 1)
    blocks = bool(repeated_blocks(module))
    found = saved_activations(module, network.run, micro_batch, dtype, hardware.on_gpu)
    return found.total, found.checkpointed + (max(found.block, copies) if blocks else 0)


def _memory(module: nn.Module, loop: LoopConfig, hardware: Hardware) -> Memory:
    """All but the activations."""
    parts = hardware.processes if hardware.sharded else 1
    weights, trained = 4 * _numbers(module.parameters(), parts), _numbers(_trained(module), parts)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    buckets = 0
    if hardware.sharded:
        blocks = [list(block.parameters()) for block in repeated_blocks(module)]
        inside = {id(parameter) for block in blocks for parameter in block}
        rest = [parameter for parameter in module.parameters() if id(parameter) not in inside]
        # The one block that is at work and what lies between the blocks, weights and gradients.
        buckets = 8 * (max((_numbers(block, 1) for block in blocks), default=0) + _numbers(rest, 1))
    elif hardware.processes > 1:
        buckets = 4 * trained
    return Memory(
        weights=weights + buffers,
        gradients=4 * trained,
        moments=moment_bytes(module, loop.optimizer, parts),
        averages=(4 * trained + buffers) * len(loop.half_lives),
        buckets=buckets,
        activations=0,
        checkpointed=0,
    )


def _on_meta(network: NetworkEstimate) -> nn.Module:
    with torch.device("meta"):
        return network.build()


def _trained(module: nn.Module) -> Iterable[Tensor]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def _numbers(tensors: Iterable[Tensor], parts: int) -> int:
    """How many numbers the process with the most of them has; tensors are split along their first axis."""
    return sum(tensor.numel() // len(tensor) * -(-len(tensor) // parts) if tensor.ndim else 1 for tensor in tensors)
