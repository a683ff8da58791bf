"""Step by step beside k-diffusion 0.1.1, whose numbers are in golden/k_diffusion.json (made by make_k_diffusion.py)."""

import json
from collections.abc import Callable

import pytest
import torch
from checkout import GOLDEN
from gaussian import Draws
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLER_TABLE, SAMPLERS

GOLDEN_RUNS = json.loads((GOLDEN / "k_diffusion.json").read_text())
RUNS = [run for run in GOLDEN_RUNS["runs"] if not SAMPLER_TABLE[run["sampler"]].stochastic]
"""Churn included; `test_stochastic_oracle.py` has the others."""


def tensor(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(GOLDEN_RUNS["shape"])


class Model:
    """The golden numbers' model, in the coordinates of any process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = self.process.levels(t)
        ratio = sigma / alpha
        seen = x / alpha / (1 + ratio**2).sqrt()
        x0 = torch.tanh(seen + seen.flip(-1) / 2 - seen.flip(1) / 4) + torch.cos((1 + ratio).log()) / 5
        return Prediction(x0, (x - alpha * x0) / sigma)


def recorded(indices: list[int]) -> Callable[[], Tensor]:
    draws = iter([tensor(GOLDEN_RUNS["noise"][i]) for i in indices])
    return lambda: next(draws)


@pytest.mark.parametrize("process", [EDM(), DiscreteVP(), Flow()], ids=["edm", "vp", "flow"])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['sampler']} {run['options']} {len(run['x'])}")
def test_walk(run: dict, process: Process):
    options = run["options"] | ({"lower_order_final": False} if run["sampler"] == "dpmpp_2m" else {})
    sigmas = torch.tensor(run.get("sigmas", GOLDEN_RUNS["sigmas"]), dtype=torch.float64)
    grid = process.time_of_lambda(-sigmas.log())
    scales = process.alpha(grid)
    noise = Draws(recorded(run["draws"]))
    steps = list(
        SAMPLERS[run["sampler"]](Model(process), tensor(GOLDEN_RUNS["start"]) * scales[0], grid, noise, **options)
    )
    assert len(steps) == len(run["x"])
    for step, scale, x in zip(steps, scales[1:], run["x"], strict=True):
        torch.testing.assert_close(step.x / scale, tensor(x), rtol=1e-8, atol=1e-8)
    with pytest.raises(StopIteration):
        noise()  # all of the recorded noise was used


def test_every_deterministic_sampler_of_k_diffusion_is_here():
    assert {run["sampler"] for run in RUNS} == {"euler", "heun", "dpm2", "lms", "dpmpp_2m", "dpm_fast"}
