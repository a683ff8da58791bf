"""The benchmark behind docs/samplers.md measures what it says, on a small model."""

import sys
from pathlib import Path

import pytest

from ldm import LatentDiffusion

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.samplers import measure, table


@pytest.fixture(scope="module")
def measured(tiny_folder: Path):
    model = LatentDiffusion.from_pretrained(tiny_folder)
    return measure(model, ["a red apple", "sea"], ["ddim", "heun", "dpmpp_2m_sde"], (4, 8, 16), 200)


def test_network_calls_are_counted(measured):
    assert [each.calls for each in measured["ddim"]] == [4, 8, 16]
    assert [each.calls for each in measured["heun"]] == [8, 16, 32]  # the tiny model ends with noise left


def test_errors_fall_with_the_steps(measured):
    for name in ("ddim", "heun", "dpmpp_2m_sde"):
        errors = [each.error for each in measured[name]]
        assert errors[0] > errors[1] > errors[2] > 0, name
    assert measured["heun"][-1].error < measured["ddim"][-1].error


def test_the_table_has_a_line_for_every_sampler(measured):
    from ldm.samplers import SAMPLERS

    lines = table(measured).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(SAMPLERS)
    assert sum("not measured" in line for line in lines) == len(SAMPLERS) - len(measured)
