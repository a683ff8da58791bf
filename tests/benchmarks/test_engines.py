"""The benchmark behind docs/performance.md compares what gives the same, and says how fast."""

import pytest
import torch
from unet_twins import SD1

from benchmarks.engines import Side, compare, of_network, table
from ldm.networks.unet import UNet


def test_a_side_that_gives_something_else_is_not_timed() -> None:
    x = torch.arange(4.0)
    sides = compare({"one": lambda: x, "near": lambda: x + 1e-6}, 3, 1e-4)
    assert [side.name for side in sides] == ["one", "near"]
    assert all(side.seconds >= 0 for side in sides)
    with pytest.raises(ValueError, match="other differs from one by 1"):
        compare({"one": lambda: x, "other": lambda: x + 1}, 3, 1e-4)


@torch.inference_mode()
def test_engines_run_a_step_of_the_same_network() -> None:
    torch.manual_seed(0)
    runs = of_network(UNet(SD1), ["eager", "packed"], 8, torch.float32)
    assert [side.name for side in compare(runs, 1, 1e-4)] == ["eager", "packed"]


def test_the_table_has_ratios_to_the_first_side() -> None:
    lines = table("a step", [Side("eager", 0.04), Side("packed", 0.02)]).splitlines()
    assert lines[0] == "| a step | ms | times as fast |"
    assert lines[2:] == ["| eager | 40.0 | 1.00 |", "| packed | 20.0 | 2.00 |"]
