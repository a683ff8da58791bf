"""A process that keeps its freed memory does not ask the system for it again."""

import os
import platform
import subprocess
import sys

import pytest

from ldm.engine.memory import bound_compiled_kernels

_FAULTS = """
import resource, sys
import torch
from ldm.engine.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    held = [torch.ones(size * 2**18) for size in (48, 1, 80)]
for _ in range(8):  # until every block has a place
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only for glibc")
def test_a_step_has_the_memory_of_the_ones_before() -> None:
    def faults(what: str) -> int:
        command = [sys.executable, "-c", _FAULTS, what]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("leave") > 10_000  # 3 x 129 MiB in pages of 4 KiB are 99,072
    assert faults("keep") < 1_000


def test_pipelines_bound_what_the_library_for_cpus_keeps_but_not_against_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    bound_compiled_kernels()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    bound_compiled_kernels()
    assert int(os.environ[name]) == 256
