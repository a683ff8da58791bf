"""The arithmetic that this machine really does in a training: a few passes of its own network, timed."""

import time
from contextlib import nullcontext

import torch

from ldm.engine.precision import best_dtype
from ldm.generation.memory import free_memory
from ldm.io.disk.files import size_in_words
from ldm.training.estimate.flops_and_activations import count
from ldm.training.stages.base import StageConfig

_PASSES = 3
_BYTES = 12  # of a weight: itself, its gradient, and its share of activations in one sample


def measure_tflops(run: StageConfig, samples: int, on_gpu: bool, factor: int = 8) -> float:
    """Forward and backward passes of the first trained network, from random weights, in 1e12 operations a second.

    The optimizer's step and the loading of data are not in it. The fastest of a few passes counts, after one that warms
    up.

    Args:
        run: settings of the training.
        samples: that go through at once.
        on_gpu: which device does it.
        factor: see `StageConfig.networks`.

    Raises:
        ValueError: the network does not fit into this machine's memory.
    """
    network = run.networks(factor)[0]
    device = torch.device("cuda" if on_gpu else "cpu")
    with torch.device("meta"):
        plain = network.build()
    need, free = _BYTES * sum(parameter.numel() for parameter in plain.parameters()), free_memory(device)
    if free is not None and need > free:
        raise ValueError(
            f"--measure: {network.name} needs some {size_in_words(need)} here and {size_in_words(free)} are free; "
            "measure a smaller network, or say --tflops"
        )
    arithmetic = count(plain, network.run)
    module = network.build().to(device)
    half = run.loop.precision != "fp32" and best_dtype(device) == torch.bfloat16
    seconds = []
    for _ in range(1 + _PASSES):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            loss = network.run(module, samples, device)
        loss.backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        module.zero_grad()
    return samples * (arithmetic.forward + arithmetic.backward) / min(seconds[1:]) / 1e12
