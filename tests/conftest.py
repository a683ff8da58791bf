"""Fixtures for all tests: a tiny model folder, a fresh accelerate, a disk that is nearly full."""

import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch is there: they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# No test finds what a person has on this machine.
os.environ["LDM_HOME"] = os.environ["LDM_CONFIG"] = str(Path(__file__).parent / "nowhere")

from stable_diffusion import make_stable_diffusion


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder as diffusers saves it: epsilon-prediction, DDIM, `leading`. Do not write in it."""
    return make_stable_diffusion(tmp_path_factory.mktemp("stable_diffusion"), set_alpha_to_one=False)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate allows one precision a process; tests with another one follow."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


@pytest.fixture
def nearly_full_disk():
    """A context in which the kernel refuses files above so many bytes, as a full disk would.

    It must end before the test does: pytest's own report may go to a file.
    """

    @contextmanager
    def limited(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
