"""The benchmark behind docs/samplers.md measures what it says, on a small model."""

from pathlib import Path

import pytest

from benchmarks.samplers import measure, table
from ldm import LatentDiffusion


@pytest.fixture(scope="module")
def measured(tiny_folder: Path):
    model = LatentDiffusion.from_pretrained(tiny_folder)
    return measure(model, ["a red apple", "sea"], ["ddim", "heun", "dpmpp_2m_sde"], (4, 8, 16), 200)


@pytest.mark.slow
def test_network_calls_are_counted(measured):
    assert [each.calls for each in measured["ddim"]] == [4, 8, 16]
    assert [each.calls for each in measured["heun"]] == [8, 16, 32]  # the tiny model ends with noise left


def test_errors_fall_with_the_steps(measured):
    for name in ("ddim", "heun", "dpmpp_2m_sde"):
        errors = [each.error for each in measured[name]]
        assert errors[0] > errors[1] > errors[2] > 0, name
    assert measured["heun"][-1].error < measured["ddim"][-1].error


def test_the_table_has_a_line_for_every_sampler_with_its_error_at_about_20_calls(measured):
    lines = table(measured).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(measured)
    assert [
        f"| {points[2].error:.3f} (16) |" in line for line, points in zip(lines, measured.values(), strict=True)
    ] == [
        True,
        False,  # heun takes two calls a step: 16 are its 8 steps
        True,
    ]
    assert f"| {measured['heun'][1].error:.3f} (16) |" in lines[1]
