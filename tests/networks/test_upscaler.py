import json

import pytest
import torch
import torch.nn.functional as F

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.upscaler import load_upscaler, save_upscaler
from ldm.networks.upscaler.config import UpscalerConfig, UpscalerLossConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.training.objectives.upscaler import UpscalerObjective, gaussian_blur
from ldm.training.stages.upscaler import write_upscaler

TINY = UpscalerConfig(width=8, blocks=2)
PIXELS_ONLY = UpscalerLossConfig(perceptual_weight=0.0)


def trained(config=TINY, seed=0):
    """An upscaler whose every layer matters."""
    torch.manual_seed(seed)
    network = Upscaler(config)
    torch.nn.init.normal_(network.last_layer.weight, std=0.1)
    return network.eval()


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generators(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_untrained_is_bicubic(factor):
    low = pictures(2, 3, 7, 10)
    network = Upscaler(UpscalerConfig(width=8, blocks=1, factor=factor))
    torch.testing.assert_close(network(low), F.interpolate(low, scale_factor=factor, mode="bicubic"))


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 16)])
@pytest.mark.parametrize("factor", [2, 4])
def test_any_size_becomes_factor_times_as_large(size, factor):
    out = trained(UpscalerConfig(width=8, blocks=1, factor=factor))(pictures(2, 3, *size))
    assert out.shape == (2, 3, factor * size[0], factor * size[1])
    assert out.dtype == torch.float32


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other():
    network, low = trained(), pictures(3, 3, 8, 8)
    torch.testing.assert_close(network(low)[1:2], network(low[1:2]))


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 2])
def test_tiles_with_margin_equal_the_whole(blocks):
    network, low = trained(UpscalerConfig(width=8, blocks=blocks)), pictures(1, 3, 12, 40)
    m = network.margin
    whole = network(low)
    left, right = network(low[..., : 20 + m]), network(low[..., 20 - m :])
    torch.testing.assert_close(torch.cat([left[..., :80], right[..., 4 * m :]], -1), whole)


@torch.no_grad()
def test_margin_is_not_larger_than_needed():
    network, low = trained(), pictures(1, 3, 1, 41)
    changed = low.clone()
    changed[..., 20] += 1.0
    moved = (network(changed) - network(low)).abs().amax((0, 1, 2)).nonzero()
    reach = max(20 - int(moved.min()) // 4, int(moved.max()) // 4 - 20)
    assert network.margin - 1 <= reach <= network.margin


@torch.no_grad()
def test_low_precision_weights_give_nearly_the_same_picture():
    network, low = trained(), pictures(1, 3, 8, 8)
    expected = network(low)
    out = network.to(torch.bfloat16)(low)
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() < 0.05


@torch.no_grad()
def test_saved_and_loaded_is_the_same(tmp_path):
    network, low = trained(UpscalerConfig(width=12, blocks=1, factor=2)), pictures(1, 3, 6, 6)
    save_upscaler(network, tmp_path / "upscaler")
    loaded = load_upscaler(tmp_path / "upscaler")
    assert loaded.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    torch.testing.assert_close(loaded(low), network(low))


def test_half_precision_file_is_half_as_large(tmp_path):
    network = trained()
    save_upscaler(network, tmp_path / "full")
    save_upscaler(network, tmp_path / "half", dtype=torch.float16)
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.65 * full
    loaded = load_upscaler(tmp_path / "half")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 8}, "widht"),
        ({"blocks": "two"}, "blocks='two'"),
        ({"_class_name": "AutoencoderKL"}, "does not describe an upscaler"),
        ({"width": 16}, r"asks for \(16, 3, 3, 3\)"),
        ({"factor": 3}, "factor=3"),
    ],
)
def test_wrong_config_is_refused_by_name(tmp_path, change, message):
    save_upscaler(trained(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((ModelFileError, ValueError), match=message):
        load_upscaler(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    save_upscaler(trained(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="truncated"):
        load_upscaler(tmp_path)


@pytest.mark.parametrize("shape", [{"factor": 1}, {"factor": 6}, {"width": 7}, {"width": 0}, {"blocks": -1}])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=f"{next(iter(shape))}={next(iter(shape.values()))}"):
        UpscalerConfig(**shape)


@pytest.mark.parametrize(
    "setting",
    [
        {"l1_weight": 0.0},
        {"perceptual_weight": -1.0},
        {"perceptual_fraction": 0.0},
        {"blur": -1.0},
        {"blurred_fraction": 2.0},
    ],
)
def test_impossible_losses_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        UpscalerLossConfig(**setting)


def batch(n=2):
    """Pictures of flat squares, 32 px, and their averages, 8 px."""
    high = F.interpolate(pictures(n, 3, 4, 4), scale_factor=8)
    return {"low": F.avg_pool2d(high, 4), "high": high}


def objective(loss=PIXELS_ONLY, config=TINY):
    torch.manual_seed(0)
    made = UpscalerObjective(config, loss)
    torch.nn.init.normal_(made.trained_modules["upscaler"].last_layer.weight, std=0.05)
    return made


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("perceptual_weight", [0.0, 0.3])
def test_gradient_is_that_of_the_weighted_sum(perceptual_weight):
    made = objective(UpscalerLossConfig(l1_weight=2.0, perceptual_weight=perceptual_weight, perceptual_fraction=0.5))
    upscaler, pair = made.trained_modules["upscaler"], batch()
    out = made.loss("upscaler", pair, generators(2), 0)
    out["loss"].backward()
    ours = gradients(upscaler)
    upscaler.zero_grad()
    x = upscaler(pair["low"])
    expected = 2.0 * (x - pair["high"]).abs().mean()
    if perceptual_weight:
        expected = expected + perceptual_weight * made.perceptual(x[:1], pair["high"][:1]).mean()
    expected.backward()
    torch.testing.assert_close(out["loss"], expected)
    assert ours.keys() == gradients(upscaler).keys() == dict(upscaler.named_parameters()).keys()
    for name, gradient in gradients(upscaler).items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3)


def test_adversarial_loss_and_gradient_equal_the_written_out_formula():
    """Esser et al. 2021, equation 7, as one graph."""
    made = objective(UpscalerLossConfig(perceptual_weight=0.0, discriminator_weight=0.5, discriminator_width=4))
    upscaler, judge, pair = made.trained_modules["upscaler"], made.trained_modules["discriminator"].eval(), batch()
    out = made.loss("upscaler", pair, generators(2), 0)
    x = upscaler(pair["low"])
    pixels, adversarial = (x - pair["high"]).abs().mean(), -judge(x).mean()
    norms = [
        torch.autograd.grad(term, upscaler.last_layer.weight, retain_graph=True)[0].norm()
        for term in (pixels, adversarial)
    ]
    weight = 0.5 * norms[0] / (norms[1] + 1e-4)
    torch.testing.assert_close(out["adaptive_weight"], weight, atol=0, rtol=1e-3)
    expected, parameters = pixels + weight * adversarial, list(upscaler.parameters())
    torch.testing.assert_close(out["loss"], expected, atol=1e-5, rtol=1e-5)
    pairs = zip(torch.autograd.grad(out["loss"], parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_modules_get_gradients_of_their_own_loss_only():
    made = objective(UpscalerLossConfig(perceptual_weight=0.0, discriminator_weight=0.5, discriminator_width=4))
    upscaler, judge, pair = made.trained_modules["upscaler"], made.trained_modules["discriminator"], batch()
    made.loss("upscaler", pair, generators(2), 0)["loss"].backward()
    assert gradients(upscaler) and not gradients(judge)
    upscaler.zero_grad()
    made.loss("discriminator", pair, generators(2), 0)["loss"].backward()
    assert gradients(judge) and not gradients(upscaler)


def test_discriminator_rests_until_its_start():
    late = UpscalerLossConfig(
        perceptual_weight=0.0, discriminator_weight=0.5, discriminator_start=100, discriminator_width=4
    )
    made, pair = objective(late), batch()
    assert made.loss("discriminator", pair, generators(2), 99) is None
    assert "generator" not in made.loss("upscaler", pair, generators(2), 99)
    assert "generator" in made.loss("upscaler", pair, generators(2), 100)
    assert made.loss("discriminator", pair, generators(2), 100) is not None


def test_discriminator_levels_and_weight_count():
    def made(weight, levels):
        return objective(
            UpscalerLossConfig(
                perceptual_weight=0.0, discriminator_weight=weight, discriminator_width=4, discriminator_levels=levels
            )
        )

    assert len(made(1.0, 1).trained_modules["discriminator"].down) == 1
    pair = batch()
    single, double = (
        float(made(weight, 2).loss("upscaler", pair, generators(2), 0)["adaptive_weight"]) for weight in (1.0, 2.0)
    )
    assert double == pytest.approx(2 * single, rel=1e-4)


def test_loss_falls_on_one_batch():
    made, pair = objective(), batch()
    upscaler = made.trained_modules["upscaler"]
    optimizer = torch.optim.AdamW(upscaler.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = made.loss("upscaler", pair, generators(2), 0)
        optimizer.zero_grad()
        loss["loss"].backward()
        optimizer.step()
        losses.append(float(loss["loss"].detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert loss["psnr"] > loss["bicubic_psnr"]


def test_blur_is_drawn_by_each_samples_own_generator():
    made = objective(UpscalerLossConfig(perceptual_weight=0.0, blurred_fraction=0.5, blur=1.0))
    low = batch(8)["low"]
    together = made._blurred(low, generators(8))
    alone = torch.cat([made._blurred(low[i : i + 1], [torch.Generator().manual_seed(i)]) for i in range(8)])
    torch.testing.assert_close(together, alone)
    kept = [torch.allclose(a, b, atol=1e-6) for a, b in zip(together, low, strict=True)]
    assert any(kept) and not all(kept)


def test_blur_of_nothing_and_of_a_flat_picture():
    low = pictures(2, 3, 8, 8)
    torch.testing.assert_close(gaussian_blur(low, torch.zeros(2)), low)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.ones(1)), flat)


def test_blur_spreads_a_point_by_its_deviation():
    point = torch.zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1.0
    spread = gaussian_blur(point, torch.tensor([0.6]))
    offsets = torch.arange(15.0) - 7
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    for axis in (2, 3):
        variance = (spread.sum((0, 1, 5 - axis)) * offsets.square()).sum()
        assert float(variance.sqrt()) == pytest.approx(0.6, rel=0.02)


def test_preview_shows_bicubic_ours_and_truth():
    made, pair = objective(), batch(3)
    tiles = made.preview(pair, dict(made.trained_modules))["upscaled"]
    assert tiles.shape == (3, 3, 32, 96)
    assert tiles.min() >= 0 and tiles.max() <= 1
    torch.testing.assert_close(tiles[..., 64:] * 2 - 1, pair["high"], atol=1e-6, rtol=0)


def test_export_opens_as_an_upscaler(tmp_path):
    made = objective()
    write_upscaler(tmp_path, dict(made.trained_modules))
    assert load_upscaler(tmp_path / "upscaler").config == TINY
