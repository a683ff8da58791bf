"""The fastest safe number format of a device, found by probing it."""

import statistics
import time
from functools import cache

import torch

DTYPES = {
    **dict.fromkeys(("float32", "fp32"), torch.float32),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16"), torch.float16),
}
"""Number formats by the names that people give them."""
AUTO = "auto"
"""The name of the fastest safe one of a device."""

_WORTH_IT = 1.2  # bf16 must win by this much: it costs accuracy


@cache
def best_dtype(device: torch.device) -> torch.dtype:
    """The fastest safe type of network arithmetic on `device`: bf16 where it pays, else fp32.

    A GPU reports whether it has native bf16, an x86 CPU whether it has the instructions (every one with AMX has them
    too). Any other CPU is timed for some milliseconds on a small convolution, because many emulate bf16 at a tenth of
    the speed of fp32. Where it can be known it is not timed: a busy machine must not change the answer, and with it the
    picture that a seed gives.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    if torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    fp32, bf16 = _convolution_seconds(torch.float32), _convolution_seconds(torch.bfloat16)
    return torch.bfloat16 if fp32 > _WORTH_IT * bf16 else torch.float32


@torch.no_grad()
def _convolution_seconds(dtype: torch.dtype) -> float:
    """Median time of a 3x3 convolution (2, 128, 32, 32), 0.6 GFLOP."""
    x = torch.ones(2, 128, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, weight, padding=1)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])
