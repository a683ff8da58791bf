"""Loss weights against the published formulas, and that they say the same for every predicted quantity."""

import pytest
import torch

from ldm.denoiser import PREDICTION_TYPES, target, to_x0_eps
from ldm.process import EDM, DiscreteVP, Flow
from ldm.training.diffusion.weighting import WEIGHTINGS, WeightNumbers, loss_weight

SNR = torch.tensor([1e-4, 0.1, 1.0, 5.0, 100.0], dtype=torch.float64)


def test_min_snr_is_hang_et_al():
    """arXiv:2303.09556, section 3.4: min(SNR, g) on x0, min(g / SNR, 1) on noise, min(SNR, g) / (SNR + 1) on v."""
    smaller = SNR.clamp(max=5.0)
    torch.testing.assert_close(loss_weight(SNR, "sample", "min_snr"), smaller)
    torch.testing.assert_close(loss_weight(SNR, "epsilon", "min_snr"), (5.0 / SNR).clamp(max=1.0))
    torch.testing.assert_close(loss_weight(SNR, "v_prediction", "min_snr"), smaller / (SNR + 1))


def test_p2_is_choi_et_al():
    """arXiv:2204.00227, eq. 8: the noise's error counts 1 / (k + SNR)^gamma."""
    numbers = WeightNumbers(p2_k=2.0, p2_gamma=0.5)
    torch.testing.assert_close(loss_weight(SNR, "epsilon", "p2", numbers), (2.0 + SNR) ** -0.5)


def test_debiased_is_yu_et_al():
    """arXiv:2310.08442: the noise's error counts 1 / sqrt(SNR)."""
    torch.testing.assert_close(loss_weight(SNR, "epsilon", "debiased"), SNR**-0.5)


def test_soft_min_snr_is_crowson_et_al():
    """arXiv:2401.11605: the denoised picture's error counts 1 / (sigma^2 + 1 / gamma); min-SNR at both ends."""
    weight = loss_weight(SNR, "sample", "soft_min_snr", WeightNumbers(gamma=4.0))
    torch.testing.assert_close(weight, 1 / (1 / SNR + 1 / 4.0))
    ends = torch.tensor([1e-6, 1e6], dtype=torch.float64)
    both = [loss_weight(ends, "sample", name) for name in ("min_snr", "soft_min_snr")]
    torch.testing.assert_close(*both, rtol=1e-5, atol=0)


def test_edm_is_karras_et_al_and_cancels_c_out():
    """arXiv:2206.00364, table 1: lambda = (sigma^2 + s^2) / (sigma s)^2 on D, which is 1 on F, the network's output."""
    sigma = SNR**-0.5
    torch.testing.assert_close(loss_weight(SNR, "sample", "edm"), (sigma**2 + 1) / sigma**2)
    torch.testing.assert_close(loss_weight(SNR, "v_prediction", "edm"), torch.ones_like(SNR))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_constant_is_one_for_whatever_is_predicted(kind):
    torch.testing.assert_close(loss_weight(SNR, kind, "constant"), torch.ones_like(SNR))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_finite_without_any_signal_and_almost_without_noise(name, kind):
    weight = loss_weight(torch.tensor([0.0, 1e-12, 1e6, 1e12]), kind, name)
    assert weight.isfinite().all() and (weight >= 0).all()


def test_min_snr_counts_pure_noise_fully_for_epsilon_and_not_at_all_for_the_picture():
    zero = torch.zeros(1, dtype=torch.float64)
    weights = torch.cat([loss_weight(zero, kind, "min_snr") for kind in ("epsilon", "sample")])
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name != "constant"])
@pytest.mark.parametrize(
    ("process", "times"),
    [(DiscreteVP(), [3.0, 400.0, 990.0]), (Flow(2.0), [0.05, 0.5, 0.97]), (EDM(), [0.01, 1.0, 50.0])],
    ids=["vp", "flow", "edm"],
)
def test_weighted_losses_of_all_predictions_have_the_same_value_and_gradient(process, times, name):
    """Errors of noise, velocity, picture and flow are multiples of each other; the weights undo just that."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, belief = (torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    time = torch.tensor(times)
    alpha, sigma = process.levels(time)
    x = process.add_noise(x0, noise, time)
    results = []
    for kind in PREDICTION_TYPES:
        leaf = belief.clone().requires_grad_()
        output = target(*to_x0_eps(leaf, x, alpha, sigma, "sample"), alpha, sigma, kind)
        error = (output - target(x0, noise, alpha, sigma, kind)).square().mean((1, 2, 3))
        loss = (loss_weight((alpha / sigma) ** 2, kind, name) * error).mean()
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-9)


def test_unknown_words_offer_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'min_snr'"):
        loss_weight(SNR, "epsilon", "minsnr")
