"""The denoiser's objective against diffusers' noising and targets, and the laws of its draws."""

import pytest
import torch
from diffusers import DDPMScheduler
from tiny_networks import tiny_autoencoder, tiny_objective, tiny_unet

from autoencoder.latent_format import LatentFormat
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective

SHAPE = (4, 8, 8)


def _objective(**settings) -> LatentDiffusionObjective:
    return tiny_objective(LatentFormat(scale=0.5, factor=2), **settings)


def _batch(n: int = 6) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "mean": torch.randn(n, *SHAPE, generator=generator),
        "std": torch.rand(n, *SHAPE, generator=generator),
        "label": torch.arange(n) % 3,
        "index": torch.arange(n) * 1000 + 17,
    }


def _generators(batch: dict) -> list[torch.Generator]:
    return [generator_for(0, int(i), 1) for i in batch["index"]]


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_loss_is_the_mean_squared_error_of_diffusers_target(prediction_type):
    terminal = prediction_type != "epsilon"
    objective = _objective(
        prediction_type=prediction_type, zero_terminal_snr=terminal, weighting="constant", condition_dropout=0.0
    )
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=terminal
    )
    batch = _batch()
    loss = objective.loss("unet", batch, _generators(batch), 0)["loss"]

    generators = _generators(batch)
    posterior = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
    noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
    latent = 0.5 * (batch["mean"] + batch["std"] * posterior)
    draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
    times = (draws * 1000).long()
    noisy = scheduler.add_noise(latent, noise, times)
    targets = {
        "v_prediction": scheduler.get_velocity(latent, noise, times),
        "epsilon": noise,
        "sample": latent,
    }
    from conditioning.bundle import Conditioning

    predicted = objective.trained_modules["unet"](noisy, times, Conditioning(labels=batch["label"]))
    expected = torch.nn.functional.mse_loss(predicted, targets[prediction_type])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_sample_is_trained_the_same_in_any_batch():
    objective = _objective()
    whole = _batch()
    alone = {key: value[2:3] for key, value in whole.items()}
    parts = [{key: value[i : i + 1] for key, value in whole.items()} for i in range(6)]
    mean = torch.stack([objective.loss("unet", part, _generators(part), 0)["loss"] for part in parts]).mean()
    torch.testing.assert_close(objective.loss("unet", whole, _generators(whole), 0)["loss"], mean)
    first, second = (objective.loss("unet", alone, _generators(alone), clock)["loss"] for clock in (0, 10_000))
    assert torch.equal(first, second)


def test_dropped_labels_become_the_null_class():
    objective = _objective(condition_dropout=0.999999)
    batch = _batch()
    null = dict(batch, label=torch.full((6,), 3))
    losses = [objective.loss("unet", which, _generators(which), 0)["loss"] for which in (batch, null)]
    assert torch.equal(*losses)


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(ValueError, match=r"epsilon.*zero_terminal_snr"):
        _objective(prediction_type="epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize("stratified", [True, False])
def test_times_are_stratified_or_each_samples_own_draw(stratified):
    torch.manual_seed(0)
    frozen = FrozenParts(tiny_autoencoder(), LatentFormat())
    config = DiffusionConfig(stratified=stratified)
    objective = LatentDiffusionObjective(tiny_unet(4), frozen, config, batch_size=8, seed=3)
    draws = torch.full((8,), 0.5, dtype=torch.float64)
    times = objective._times(torch.arange(8), draws)
    if stratified:
        assert sorted((8 * times / 1000).long().tolist()) == list(range(8))
    else:
        assert (times == 500).all()


@pytest.mark.parametrize("min_snr_gamma", [1.0, 5.0])
def test_min_snr_gamma_bounds_the_weight_of_the_loss(min_snr_gamma):
    """Hang et al. 2023, eq. 8, for the clean latent: the error counts min(SNR, gamma)."""
    objective = _objective(min_snr_gamma=min_snr_gamma, prediction_type="sample", zero_terminal_snr=False)
    batch = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in _batch().items()}
    found = objective.loss("unet", batch, _generators(batch), 0)
    generator = _generators(batch)[0]
    for shape in (SHAPE, SHAPE):  # the latent's and the noise's draw come first
        torch.randn(shape, generator=generator)
    time = objective._times(batch["index"], torch.rand((1,), generator=generator, dtype=torch.float64))
    alpha, sigma = DiffusionConfig(zero_terminal_snr=False).make_process().levels(time)
    expected = float(((alpha / sigma) ** 2).clamp(max=min_snr_gamma))
    assert float(found["loss"].detach() / found["unweighted"]) == pytest.approx(expected, rel=1e-5)
