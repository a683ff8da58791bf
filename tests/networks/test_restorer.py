import json

import pytest
import torch

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.restorer import load_restorer, save_restorer
from ldm.networks.restorer.config import RestorerConfig, RestorerLossConfig
from ldm.networks.restorer.model import Found, Restorer
from ldm.training.objectives.restorer import RestorerObjective, finding_error

TINY = RestorerConfig(widths=(4, 8, 8), encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
K = len(TINY.kinds)


def trained(config=TINY, seed=0):
    """A restorer whose every layer matters."""
    torch.manual_seed(seed)
    network = Restorer(config)
    for name, parameter in network.named_parameters():
        if "shift" in name or "conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


BLIND = torch.zeros(1, 2 * K)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (16, 16)])
def test_untrained_changes_nothing_of_any_size(size):
    images = pictures(2, 3, *size)
    network = Restorer(TINY)
    restored, found = network(images, BLIND.expand(2, -1)), network.finder(images)
    assert torch.equal(restored, images)
    assert found.chances.shape == found.levels.shape == (2, K)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other():
    network, images, conditions = trained(), pictures(3, 3, 8, 8), torch.rand(3, 2 * K)
    torch.testing.assert_close(network(images, conditions)[1:2], network(images[1:2], conditions[1:2]))


@torch.no_grad()
def test_the_damage_that_is_named_matters():
    network, images = trained(), pictures(1, 3, 8, 8)
    named = BLIND.clone()
    named[0, 0] = named[0, K] = 1
    assert (network(images, named) - network(images, BLIND)).abs().max() > 1e-4


@torch.no_grad()
def test_tiles_with_margin_equal_the_whole():
    network, images = trained(), pictures(1, 3, 12, 160)
    m, middle = network.margin, 80
    assert m % network.config.stride == 0 and middle % network.config.stride == 0
    whole = network(images, BLIND)
    left = network(images[..., : middle + m], BLIND)
    right = network(images[..., middle - m :], BLIND)
    torch.testing.assert_close(torch.cat([left[..., :middle], right[..., m:]], -1), whole)


@torch.no_grad()
def test_margin_is_not_much_larger_than_needed():
    network, images = trained(), pictures(1, 3, 4, 161)
    stride, places = network.config.stride, range(80, 80 + network.config.stride)
    reach = 0
    for place in places:
        changed = images.clone()
        changed[..., place] += 1.0
        moved = (network(changed, BLIND) - network(images, BLIND)).abs().amax((0, 1, 2)).nonzero()
        reach = max(reach, place - int(moved.min()), int(moved.max()) - place)
    assert network.margin - 3 * stride <= reach <= network.margin


@torch.no_grad()
def test_saved_and_loaded_is_the_same(tmp_path):
    network, images = trained(), pictures(1, 3, 6, 6)
    save_restorer(network, tmp_path)
    loaded = load_restorer(tmp_path)
    assert loaded.config == network.config
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    torch.testing.assert_close(loaded(images, BLIND), network(images, BLIND))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 8}, "widht"),
        ({"widths": "wide"}, "widths='wide'"),
        ({"_class_name": "Upscaler"}, "does not describe a restorer"),
        ({"encoder_blocks": [1]}, "encoder_blocks"),
    ],
)
def test_wrong_config_is_refused_by_name(tmp_path, change, message):
    save_restorer(trained(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((ModelFileError, ValueError), match=message):
        load_restorer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "widths"),
        ({"decoder_blocks": (1, -1)}, "decoder_blocks"),
        ({"middle_blocks": -1}, "middle_blocks"),
        ({"kinds": ("blur", "blur")}, "kinds"),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RestorerConfig(**{"widths": (4, 8, 8), "encoder_blocks": (1, 1), "decoder_blocks": (1, 1)} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"distance": "pnsr"}, "unknown loss.distance 'pnsr'.*psnr"),
        ({"perceptual_weight": -1.0}, "perceptual_weight"),
        ({"finding_weight": -1.0}, "finding_weight"),
        ({"perceptual_fraction": 0.0}, "perceptual_fraction"),
    ],
)
def test_impossible_losses_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RestorerLossConfig(**settings)


def _batch(n=2, size=8):
    clean = pictures(n, 3, size, size)
    return {
        "clean": clean,
        "damaged": (clean + 0.1 * pictures(n, 3, size, size, seed=1)).clamp(-1, 1),
        "conditions": torch.zeros(n, 2 * K),
        "strength": torch.eye(K)[:n] * 0.5,
    }


def _loss(batch, **settings):
    torch.manual_seed(0)
    objective = RestorerObjective(Restorer(TINY), RestorerLossConfig(finding_weight=0.0, **settings))
    value = objective.loss("restorer", batch, [], 0)
    assert value is not None
    return {name: tensor.detach() for name, tensor in value.items()}


def test_charbonnier_is_its_formula_on_an_untrained_network():
    batch = _batch()
    error = batch["damaged"] - batch["clean"]
    value = _loss(batch, epsilon=0.01)
    expected = ((error**2 + 0.01**2).sqrt() - 0.01).mean()
    assert float(value["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert value["psnr"] == value["input_psnr"]


def test_psnr_is_the_mean_of_decibels_and_bounded_where_nothing_is_wrong():
    batch = _batch()
    decibels = 10 * (4 / (batch["damaged"] - batch["clean"]).square().flatten(1).mean(1)).log10()
    value = _loss(batch, distance="psnr", epsilon=1e-6)
    assert float(value["loss"]) == pytest.approx(-float(decibels.mean()) / 100, rel=1e-4)
    clean = _loss(batch | {"damaged": batch["clean"]}, distance="psnr", epsilon=0.002)
    assert float(clean["loss"]) == pytest.approx(-0.6, abs=1e-4)


def test_levels_only_count_where_the_kind_is_there():
    strength = _batch()["strength"]
    sure = torch.where(strength > 0, 50.0, -50.0)
    assert float(finding_error(Found(sure, strength), strength)) == pytest.approx(0, abs=1e-5)
    elsewhere = Found(sure, strength + (strength == 0))
    assert float(finding_error(elsewhere, strength)) == pytest.approx(0, abs=1e-5)
    assert float(finding_error(Found(-sure, strength), strength)) > 10


@torch.no_grad()
def test_what_is_found_in_even_noise_is_the_same_in_every_large_part():
    finder, images = trained().finder, pictures(1, 3, 256, 256)
    whole, part = finder(images), finder(images[..., :128, 128:])
    other = finder(images * 0.1)
    assert (whole.chances - part.chances).abs().max() < 0.3 * (whole.chances - other.chances).abs().max()


def test_previews_show_damaged_restored_and_clean():
    batch = _batch()
    objective = RestorerObjective(Restorer(TINY), RestorerLossConfig())
    shown = objective.preview(batch, objective.trained_modules)["restored"]
    assert torch.equal(shown[..., :8], shown[..., 8:16])  # untrained
    torch.testing.assert_close(shown[..., 16:], batch["clean"] * 0.5 + 0.5)
