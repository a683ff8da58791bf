"""Laws of the loop's parts: order, draws, average, learning rate, checkpoints, loss weights."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ldm.training.checkpoint import (
    PlayerState,
    checkpoints,
    load_checkpoint,
    newest_intact,
    save_checkpoint,
)
from ldm.training.ema import Ema
from ldm.training.learning_rate import learning_rate
from ldm.training.order import SampleOrder, generator_for, mix


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


@pytest.mark.parametrize(
    ("shape", "step", "expected"),
    [("constant", 999, 1.0), ("cosine", 500, 0.5), ("cooldown", 799, 1.0), ("cooldown", 850, 0.5), ("cosine", 4, 0.5)],
)
def test_learning_rate_shapes(shape, step, expected):
    rate = learning_rate(step, 1000, peak=1.0, warmup=10, shape=shape, cooldown=0.2)
    assert rate == pytest.approx(expected, abs=1e-3)


def _player(seed: int) -> PlayerState:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return PlayerState(module, Ema(module, 10).module, optimizer)


def test_checkpoint_restores_weights_average_and_moments_exactly(tmp_path):
    saved, other = _player(0), _player(1)
    path = save_checkpoint(tmp_path, {"net": saved}, 64, "task: x\n", keep=2)
    assert load_checkpoint(path, {"net": other}) == 64
    for mine, theirs in ((saved.module, other.module), (saved.average, other.average)):
        for key, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key
    for a, b in zip(saved.module.parameters(), other.module.parameters(), strict=True):
        for moment, value in saved.optimizer.state[a].items():
            assert torch.equal(value, other.optimizer.state[b][moment]), moment
    assert not list(path.glob("*.pt")) and not list(path.glob("*.bin"))


def test_damaged_checkpoint_is_refused_and_the_one_before_is_taken(tmp_path, caplog):
    player = _player(0)
    for samples in (32, 64, 96):
        save_checkpoint(tmp_path, {"net": player}, samples, "", keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["000000000064", "000000000096"]
    newest = checkpoints(tmp_path)[-1]
    weights = newest / "net.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    assert newest_intact(tmp_path) == checkpoints(tmp_path)[0]
    assert "damaged (net.safetensors)" in caplog.text
    with pytest.raises(ValueError, match=r"damaged: net\.safetensors"):
        load_checkpoint(newest, {"net": player})


def test_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    path = save_checkpoint(tmp_path, {"net": _player(0)}, 32, "", keep=1)
    other = nn.Linear(2, 2)
    state = PlayerState(other, Ema(other, 1).module, torch.optim.AdamW(other.parameters()))
    with pytest.raises(ValueError, match="does not fit net"):
        load_checkpoint(path, {"net": state})


def test_unfinished_checkpoint_is_not_seen(tmp_path):
    unfinished = tmp_path / "000000000032"
    unfinished.mkdir()
    (unfinished / "net.safetensors").write_bytes(b"half")
    assert newest_intact(tmp_path) is None


def test_manifest_lists_every_file(tmp_path):
    path = save_checkpoint(tmp_path, {"net": _player(0)}, 32, "task: x\n", keep=1)
    listed = set(json.loads((path / "manifest.json").read_text()))
    assert listed == {file.name for file in path.iterdir()} - {"manifest.json"}
