"""The type of network arithmetic follows what the machine can do."""

from pathlib import Path

import pytest
import torch

from ldm.engine.precision import best_dtype


def test_the_answer_is_a_safe_type_and_stays():
    first = best_dtype(torch.device("cpu"))
    assert first in (torch.float32, torch.bfloat16)
    best_dtype.cache_clear()
    assert best_dtype(torch.device("cpu")) is first


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the flags of the CPU are read from Linux")
def test_a_cpu_with_the_instructions_uses_them(monkeypatch):
    has_them = " avx512_bf16" in Path("/proc/cpuinfo").read_text()
    assert torch.cpu._is_avx512_bf16_supported() == has_them
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    best_dtype.cache_clear()
    assert best_dtype(torch.device("cpu")) is torch.bfloat16
    best_dtype.cache_clear()


def test_a_device_without_native_bf16_stays_in_fp32():
    assert best_dtype(torch.device("meta")) is torch.float32
