"""Training times: their distributions, and that every batch covers them evenly however it is cut."""

import math

import pytest
import torch

from ldm.process import EDM, DiscreteVP, Flow
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.times import TIME_SAMPLING, stratify

EVEN = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
PROCESSES = {"vp": DiscreteVP(zero_terminal_snr=True), "flow": Flow(), "edm": EDM()}


def _quantiles(positions: list[int], count: int, seed: int = 3) -> torch.Tensor:
    draws = torch.stack([torch.rand((), generator=generator_for(seed, i, 1), dtype=torch.float64) for i in positions])
    return stratify(torch.tensor(positions), draws, count, seed)


@pytest.mark.parametrize(("processes", "micro"), [(1, 12), (1, 3), (2, 6), (4, 1), (3, 4)])
def test_each_stratum_is_taken_once_over_processes_and_accumulation(processes, micro):
    count, batch = 12, 5
    start, share = batch * count, count // processes
    parts = [
        list(range(first, first + micro))
        for rank in range(processes)
        for first in range(start + rank * share, start + (rank + 1) * share, micro)
    ]
    together = torch.cat([_quantiles(part, count) for part in parts])
    assert sorted((together * count).long().tolist()) == list(range(count))
    assert torch.equal(together, _quantiles(list(range(start, start + count)), count)), "and does not depend on the cut"


def test_strata_come_in_another_order_in_every_batch_and_seed():
    orders = [
        (_quantiles(list(range(k * 8, k * 8 + 8)), 8, seed) * 8).long().tolist() for k in (0, 1) for seed in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_one_stratum_leaves_the_draws_as_they_are():
    draws = torch.tensor([0.1, 0.7], dtype=torch.float64)
    assert torch.equal(stratify(torch.tensor([4, 9]), draws, 1, 0), draws)


def test_a_batch_that_ends_inside_another_one_keeps_its_strata():
    assert torch.equal(_quantiles([6, 7, 8, 9], 8), torch.cat([_quantiles([6, 7], 8), _quantiles([8, 9], 8)]))


def test_uniform_takes_every_step_of_a_table_equally_often():
    times = TIME_SAMPLING["uniform"](EVEN, PROCESSES["vp"], 0.0, 1.0)
    assert torch.equal(torch.bincount(times.long(), minlength=1000), torch.full((1000,), 20))
    assert torch.equal(times, times.round())


def test_uniform_is_even_in_the_time_of_a_flow_and_in_karras_ramp():
    torch.testing.assert_close(TIME_SAMPLING["uniform"](EVEN, PROCESSES["flow"], 0, 1), EVEN, rtol=0, atol=1e-3)
    sigma = TIME_SAMPLING["uniform"](EVEN, PROCESSES["edm"], 0, 1)
    ramp = (sigma ** (1 / 7) - 0.002 ** (1 / 7)) / (80 ** (1 / 7) - 0.002 ** (1 / 7))
    torch.testing.assert_close(ramp, EVEN, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_has_the_published_density(mean, std):
    """Esser et al. 2024, eq. 19: the share of times below t is Phi((logit t - mean) / std)."""
    times = TIME_SAMPLING["logit_normal"](EVEN, PROCESSES["flow"], mean, std)
    for t in (0.1, 0.4, 0.5, 0.9):
        wanted = 0.5 * (1 + math.erf((math.log(t / (1 - t)) - mean) / std / math.sqrt(2)))
        assert (times < t).double().mean().item() == pytest.approx(wanted, abs=1e-3)


def test_log_normal_has_karras_moments_on_edm():
    sigma = TIME_SAMPLING["log_normal"](EVEN, PROCESSES["edm"], -1.2, 1.2)
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=2e-3)


def test_log_normal_and_logit_normal_are_the_same_on_an_even_flow():
    """There sigma / alpha = t / (1 - t), so one law has two names."""
    pair = [TIME_SAMPLING[name](EVEN, PROCESSES["flow"], 0.3, 0.8) for name in ("log_normal", "logit_normal")]
    torch.testing.assert_close(*pair, rtol=0, atol=1e-3)


def test_log_normal_on_a_table_is_that_of_edm_as_far_as_the_table_goes():
    process = DiscreteVP()
    times = TIME_SAMPLING["log_normal"](EVEN, process, 0.0, 0.7)
    assert torch.equal(times, times.round())
    ratio = -process.log_snr_half(times)
    assert ratio.mean().item() == pytest.approx(0.0, abs=5e-3) and ratio.std().item() == pytest.approx(0.7, abs=5e-3)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("name", TIME_SAMPLING)
def test_times_stay_in_the_range_and_the_networks_input_is_finite(name, process):
    edges = stratify(torch.tensor([0, 0]), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), 1, 0)
    times = TIME_SAMPLING[name](edges, process, -1.2, 1.2)
    assert ((times <= process.start) & (times >= min(process.terminal, 0.0))).all()
    assert process.model_time(times).isfinite().all()
    assert all(level.isfinite().all() for level in process.levels(times)) and (process.sigma(times) > 0).all()
