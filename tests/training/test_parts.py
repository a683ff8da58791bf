"""Laws of the loop's parts: order, draws, average, learning rate, loss weights."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from ldm.training.batches.sample_order import SampleOrder, generator_for, mix
from ldm.training.optimization.ema import Ema
from ldm.training.optimization.learning_rate import learning_rate


def test_equal_weights_visit_every_sample_once_an_epoch():
    order = SampleOrder(np.ones(37), seed=3)
    epochs = [[order[e * 37 + i] for i in range(37)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(37))
    assert epochs[0] != epochs[1]


def test_weights_are_visit_counts_up_to_rounding():
    weights = np.array([1.0, 2.0, 0.0, 0.5, 0.5])
    order = SampleOrder(weights, seed=0)
    n, epochs = len(weights), 200
    counts = np.bincount([order[i] for i in range(n * epochs)], minlength=n)
    np.testing.assert_allclose(counts / epochs, weights * n / weights.sum(), atol=0.1)
    assert counts[2] == 0


def test_order_is_a_function_of_seed_and_position():
    first, second = SampleOrder(np.ones(50), seed=1), SampleOrder(np.ones(50), seed=1)
    assert [first[i] for i in (120, 3, 77)] == [second[i] for i in (120, 3, 77)]
    assert [first[i] for i in range(50)] != [SampleOrder(np.ones(50), seed=2)[i] for i in range(50)]


def test_weights_must_be_positive_somewhere():
    for bad in (np.zeros(3), np.array([1.0, -1.0]), np.array([])):
        with pytest.raises(ValueError, match="weights"):
            SampleOrder(bad, seed=0)


def test_draws_of_neighbouring_samples_are_unrelated():
    draws = torch.stack([torch.randn(256, generator=generator_for(0, i)) for i in range(64)])
    correlation = torch.corrcoef(draws).fill_diagonal_(0)
    assert correlation.abs().max() < 0.35  # 5 sigma of 2,016 pairs of 256 independent numbers
    assert len({mix(seed, i) for seed in range(100) for i in range(100)}) == 10_000


def test_average_of_a_constant_is_the_constant_and_half_life_halves_the_past():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = Ema(module, half_life=100, ramp=1.0)
    average.update(module, batch=10, samples_seen=10_000)
    assert average.module.weight.item() == pytest.approx(1.0)
    nn.init.constant_(module.weight, 0.0)
    for _ in range(10):  # 100 samples: one half-life
        average.update(module, batch=10, samples_seen=10_000)
    assert average.module.weight.item() == pytest.approx(0.5, rel=1e-5)


def test_average_does_not_depend_on_the_batch_size():
    results = []
    for batch in (1, 5):
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, 1.0)
        average = Ema(module, half_life=20, ramp=1.0)
        nn.init.constant_(module.weight, 3.0)
        for _ in range(50 // batch):
            average.update(module, batch, samples_seen=1_000)
        results.append(average.module.weight.item())
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("half_life", [30.0, 500.0])
def test_average_over_a_thousand_steps_is_its_closed_form(half_life):
    """With weights k at step k, the average is sum_k k (1 - b) b^(n - k) + start b^n for b = 2^(-batch / half-life)."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average, batch, steps = Ema(module, half_life, ramp=1e9), 4, 1_000
    for k in range(1, steps + 1):
        nn.init.constant_(module.weight, float(k))
        average.update(module, batch, samples_seen=k * batch)
    keep = 0.5 ** (batch / half_life)
    k = np.arange(1, steps + 1)
    assert average.module.weight.item() == pytest.approx(float((k * (1 - keep) * keep ** (steps - k)).sum()), rel=1e-4)


def _rates(shape: str, warmup: int, total: int, cooldown: float = 0.2) -> list[float]:
    return [
        learning_rate(step, total, peak=1.0, warmup=warmup, shape=shape, cooldown=cooldown) for step in range(total)
    ]


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear"])
def test_learning_rate_is_that_of_transformers(shape):
    """Ours starts at 1 / warmup where theirs wastes the first step at 0; after the warm-up they are the same."""
    warmup, total = 10, 100
    arguments = {} if shape == "constant" else {"num_training_steps": total}
    function = getattr(transformers, f"get_{shape}_schedule_with_warmup")
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = function(optimizer, num_warmup_steps=warmup, **arguments).lr_lambdas[0]
    expected = [theirs(step + 1 if step < warmup else step) for step in range(total)]
    np.testing.assert_allclose(_rates(shape, warmup, total), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["cooldown", "wsd"])
def test_cooldown_is_flat_and_then_falls_as_a_root(name):
    rates = _rates(name, 0, 1000, cooldown=0.2)
    assert rates[:801] == [1.0] * 801
    np.testing.assert_allclose(rates[800:], 1 - np.sqrt(np.arange(200) / 200), atol=1e-7)
    assert _rates(name, 0, 10, cooldown=0.0) == [1.0] * 10
