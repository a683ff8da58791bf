"""The upscaler that some models carry."""

import json

import pytest
import torch
import torch.nn.functional as F

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.upscaler import load_upscaler, save_upscaler
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler

TINY = UpscalerConfig(width=8, blocks=2)


def trained(config=TINY, seed=0):
    """An upscaler whose every layer matters."""
    torch.manual_seed(seed)
    network = Upscaler(config)
    torch.nn.init.normal_(network.last_layer.weight, std=0.1)
    return network.eval()


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


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
