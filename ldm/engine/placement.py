"""Where networks run, and in which type."""

import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.engine.precision import AUTO, DTYPES, best_dtype
from ldm.naming import look_up

Numbers = TypeVar("Numbers", Tensor, Conditioning)


def send(numbers: Numbers, device: torch.device, dtype: torch.dtype | None = None) -> Numbers:
    """Copy to where they are used; to a CUDA GPU without waiting for what it still computes.

    The way back, or to other accelerators, is not safe like that: the CPU could read, or overwrite, too early.
    """
    return numbers.to(device, dtype, non_blocking=device.type == "cuda")


def dtype_for(dtype: torch.dtype | str | None, place: torch.device) -> torch.dtype:
    """A type or its name; by default fp32, and fp16 on a CUDA device. `auto` is bf16 on CPUs that are fast at it.

    Raises:
        ValueError: an unknown name.
    """
    usual = torch.float16 if place.type == "cuda" else torch.float32
    if isinstance(dtype, str):
        fastest = best_dtype(place) if dtype == AUTO and place.type == "cpu" else usual
        dtype = look_up("dtype", dtype.removeprefix("torch."), DTYPES | {AUTO: fastest})
    return dtype or usual


def device_for(device: torch.device | str | None) -> torch.device:
    """A device that can be used; by default the best there is.

    Raises:
        ValueError: an unknown device, or one that this machine does not have.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device={str(device)!r} cannot be used here ({reason[:120]}); use cpu") from None
    return place


def processor_name() -> str:
    """What the CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def processor_features() -> list[str]:
    """The vector instructions of the CPU that matter here and that torch knows."""
    checks = {
        "AVX2": torch.cpu._is_avx2_supported,
        "AVX512": torch.cpu._is_avx512_supported,
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported,
        "AMX": torch.cpu._is_amx_tile_supported,
    }
    return [name for name, has in checks.items() if has()]
