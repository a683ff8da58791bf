"""The autoencoder's training loss: VQGAN's balance, isolation, delayed start, preview, export."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.training.discriminator import PatchDiscriminator, hinge_discriminator_loss
from autoencoder.training.objective import AutoencoderObjective, psnr
from autoencoder.training.sharpness import flatness_distance, sharpness_distance
from ldm.training.stages.autoencoder import write_autoencoder

CONFIG = AutoencoderConfig(widths=(8, 16), norm_groups=2, blocks_per_level=1, mid_attention=False)
ADVERSARIAL = LossConfig(
    perceptual_weight=0.2,
    l2_weight=0.5,
    sharpness_weight=0.3,
    flatness_weight=0.7,
    kl_weight=1e-3,
    discriminator_weight=0.8,
    discriminator_width=8,
    discriminator_levels=2,
)


def make(loss: LossConfig) -> AutoencoderObjective:
    torch.manual_seed(0)
    return AutoencoderObjective(KLAutoencoder(CONFIG), loss)


def make_batch(count: int = 3) -> dict:
    image = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1
    image[:, :, :, :8] = 0.25  # flat ground
    return {"image": image}


def generators(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def written_out(objective: AutoencoderObjective, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole loss as one graph, with the adaptive weight straight from the paper's equation 7."""
    config, autoencoder = objective.config, objective.autoencoder
    posterior = autoencoder.encode(image)
    x = autoencoder.decode(posterior.sample(torch.stack([torch.randn(4, 8, 8, generator=g) for g in generators()])))
    reconstruction = config.l1_weight * F.l1_loss(x, image) + config.l2_weight * F.mse_loss(x, image)
    reconstruction = reconstruction + config.perceptual_weight * objective.perceptual(x, image).mean()
    reconstruction = reconstruction + config.sharpness_weight * sharpness_distance(x, image)
    reconstruction = reconstruction + config.flatness_weight * flatness_distance(x, image)
    adversarial = -objective.trained_modules["discriminator"](x).mean()
    last = autoencoder.decoder.conv_out.weight
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (reconstruction, adversarial)]
    weight = config.discriminator_weight * norms[0] / (norms[1] + 1e-4)
    kl = posterior.kl().mean() / image[0].numel()
    return reconstruction + weight * adversarial + config.kl_weight * kl, weight


def test_loss_and_gradient_equal_the_written_out_formula() -> None:
    objective, batch = make(ADVERSARIAL), make_batch()
    objective.trained_modules["discriminator"].eval()  # power iterations at rest: both passes see the same network
    result = objective.loss("autoencoder", batch, generators(), 0)
    parameters = list(objective.autoencoder.parameters())
    expected, weight = written_out(objective, batch["image"])
    torch.testing.assert_close(result["loss"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result["adaptive_weight"], weight, atol=0, rtol=1e-3)
    pairs = zip(torch.autograd.grad(result["loss"], parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_adaptive_weight_undoes_the_discriminators_scale() -> None:
    weights = []
    for scale in (1.0, 50.0):
        objective = make(ADVERSARIAL)
        judge = objective.trained_modules["discriminator"].eval()
        judge.verdict.register_forward_hook(lambda module, inputs, output, scale=scale: output * scale)
        result = objective.loss("autoencoder", make_batch(), generators(), 0)
        weights.append(float(result["adaptive_weight"]))
    assert math.isclose(weights[0], 50.0 * weights[1], rel_tol=1e-3)


def test_no_module_leaves_gradients_on_the_other() -> None:
    objective, batch = make(ADVERSARIAL), make_batch()
    autoencoder, judge = objective.autoencoder, objective.trained_modules["discriminator"]
    objective.loss("autoencoder", batch, generators(), 0)["loss"].backward()
    assert all(p.grad is None for p in judge.parameters())
    assert all(p.grad is not None for p in autoencoder.parameters())
    autoencoder.zero_grad(set_to_none=True)
    objective.loss("discriminator", batch, generators(), 0)["loss"].backward()
    assert all(p.grad is None for p in autoencoder.parameters())
    assert all(p.grad is not None for p in judge.parameters())


def test_discriminator_sees_the_reconstruction_the_autoencoder_was_scored_on() -> None:
    objective, batch = make(ADVERSARIAL), make_batch()
    objective.trained_modules["discriminator"].eval()
    objective.loss("autoencoder", batch, generators(), 0)
    remembered = objective.loss("discriminator", batch, generators(), 0)
    afresh = objective.loss("discriminator", batch, generators(), 0)
    torch.testing.assert_close(remembered["loss"], afresh["loss"])


def test_adversarial_game_begins_at_its_sample_count() -> None:
    late = replace(ADVERSARIAL, discriminator_start=100)
    objective, batch = make(late), make_batch()
    assert objective.loss("discriminator", batch, generators(), 99) is None
    assert "adaptive_weight" not in objective.loss("autoencoder", batch, generators(), 99)
    assert "adaptive_weight" in objective.loss("autoencoder", batch, generators(), 100)
    assert objective.loss("discriminator", batch, generators(), 100) is not None
    assert list(make(LossConfig(perceptual_weight=0.0)).trained_modules) == ["autoencoder"]


def test_discriminator_learns_to_tell_pictures_apart_whatever_their_neighbours() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(width=8, levels=2)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    real, fake = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16) - 1
    first = None
    for _ in range(20):
        logits = judge(torch.cat([real, fake]))
        assert logits.shape == (8, 1, 4, 4)
        loss = hinge_discriminator_loss(*logits.chunk(2))
        first = loss.detach() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * first
    judge.eval()
    torch.testing.assert_close(judge(real)[:1], judge(real[:1]))


def test_noise_belongs_to_the_sample() -> None:
    objective = make(LossConfig(perceptual_weight=0.0, kl_weight=0.0))
    batch = make_batch()
    whole = objective.loss("autoencoder", batch, generators(), 0)["loss"]
    parts = [
        objective.loss("autoencoder", {"image": batch["image"][i : i + 1]}, [generators()[i]], 0)["loss"]
        for i in range(3)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_perceptual_fraction_scores_the_first_of_the_batch() -> None:
    batch = make_batch(4)
    whole = make(LossConfig()).loss("autoencoder", {"image": batch["image"][:2]}, generators(2), 0)
    half = make(LossConfig(perceptual_fraction=0.5)).loss("autoencoder", batch, generators(4), 0)
    torch.testing.assert_close(half["perceptual"], whole["perceptual"])


def test_a_few_steps_lower_the_loss_under_autocast() -> None:
    objective = make(ADVERSARIAL)
    batch = {"image": F.interpolate(make_batch()["image"][:, :, :2, :2], size=(16, 16), mode="bilinear")}
    optimizers = {name: torch.optim.Adam(p.parameters(), lr=5e-3) for name, p in objective.trained_modules.items()}
    quality = []
    for step in range(12):
        for name, optimizer in optimizers.items():
            with torch.autocast("cpu", torch.bfloat16):
                result = objective.loss(name, batch, generators(), step)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            assert all(value.dtype == torch.float32 and value.isfinite() for value in result.values())
            quality += [float(result["l1"])] if name == "autoencoder" else []
    assert quality[-1] < 0.8 * quality[0]


def test_psnr_of_known_error() -> None:
    target = torch.zeros(2, 3, 4, 4)
    assert float(psnr(target + 0.02, target)) == pytest.approx(40.0, abs=1e-3)  # 1 % of the range of 2
    assert float(psnr(torch.full_like(target, 3.0), torch.ones_like(target))) == pytest.approx(100 + 20 * math.log10(2))


def test_preview_puts_inputs_above_reconstructions() -> None:
    objective, batch = make(LossConfig(perceptual_weight=0.0)), make_batch()
    tiles = objective.preview(batch, objective.trained_modules)["reconstruction"]
    assert tiles.shape == (3, 3, 32, 16) and tiles.min() >= 0 and tiles.max() <= 1
    torch.testing.assert_close(tiles[:, :, :16], batch["image"] / 2 + 0.5)


def test_export_writes_the_given_modules_for_diffusers(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    averaged = AutoencoderObjective(KLAutoencoder(CONFIG), LossConfig())
    write_autoencoder(tmp_path, averaged.trained_modules)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "vae")
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(theirs.decode(z).sample, averaged.autoencoder.decode(z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight=-1.0 is negative"),
        ({"l1_weight": 0.0}, "leave no pixel loss"),
        ({"perceptual_fraction": 0.0}, "perceptual_fraction=0.0 is not in"),
    ],
)
def test_loss_settings_without_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**change)


def test_perceptual_loss_needs_colour() -> None:
    with pytest.raises(ValueError, match="in_channels=1; use perceptual_weight=0"):
        AutoencoderObjective(KLAutoencoder(replace(CONFIG, in_channels=1)), LossConfig())


def test_the_discriminator_learns_to_tell_soft_edges_from_sharp_ones() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(width=16)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3)
    for _ in range(60):
        sharp = (F.interpolate(torch.rand(8, 3, 4, 4), 32) > 0.5).float() * 2 - 1
        soft = F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        loss = hinge_discriminator_loss(judge(sharp), judge(soft))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.6  # 1 is what it says at first


def test_a_verdict_does_not_depend_on_the_other_pictures() -> None:
    torch.manual_seed(0)
    judge, pictures = PatchDiscriminator(width=8), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(judge(pictures)[1:2], judge(pictures[1:2]))
