"""Restored pictures of any size and mode, by laws that hold for any weights."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from restorers import TINY, finding, random_network

from ldm import Restorer
from ldm.degradation.known_damage import conditions, shares
from ldm.tasks import restoring
from ldm.tasks.impulses import filled, median_fill

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}


def pixels(height: int = 12, width: int = 18, mode: str = "RGB", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    top, kind = (65536, np.uint16) if mode == "I;16" else (256, np.uint8)
    return random.integers(0, top, (height, width, MODES[mode]), dtype=kind)


def restorer(**found: float) -> Restorer:
    return Restorer(finding(random_network(), **found), "tiny")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (5, 33), (16, 16)])
def test_any_size_and_mode_stays_and_alpha_keeps_its_bytes(size, mode):
    given = pixels(*size, mode)
    for result in (restorer().denoise(given, "gaussian=25"), restorer(jpeg=30).restore(given)):
        assert result.pixels.shape == given.shape and result.pixels.dtype == given.dtype
        assert result.changed
        if mode.endswith("A"):
            hidden = given[..., -1] == 0
            assert np.array_equal(result.pixels[..., -1], given[..., -1])
            assert np.array_equal(result.pixels[hidden], given[hidden])


@pytest.mark.parametrize("noise", ["gaussian=25", "poisson", "salt-and-pepper=5%"])
def test_what_is_done_is_the_network_under_what_is_stated(noise):
    tool, given = restorer(poisson=20.0), pixels()
    levels = {"gaussian=25": {"gaussian": 25.0}, "poisson": {"poisson": 20.0}}.get(noise, {"salt_and_pepper": 0.05})
    result = tool.denoise(given, noise)
    assert result.stated == pytest.approx(levels)
    rgb = torch.from_numpy(given).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        out = tool.network(rgb[None] * 2 - 1, conditions(shares(levels, tool.network.config.kinds))[None])
    expected = ((out[0] * 0.5 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).byte().numpy()
    clean = noise.startswith("salt")
    assert np.array_equal(result.pixels, given if clean else expected) or clean


def test_a_kind_without_level_has_the_level_that_is_found_and_one_that_is_not_found_changes_nothing():
    tool, given = restorer(jpeg=37.0, gaussian=12.0), pixels()
    result = tool.restore(given, "jpeg")
    assert result.stated == pytest.approx({"jpeg": 37.0}, abs=1e-3) and result.changed
    nothing = tool.restore(given, "blur")
    assert not nothing.changed and np.array_equal(nothing.pixels, given) and nothing.stated == {}


def test_found_damage_is_named_strongest_first():
    found = restorer(gaussian=12.0, jpeg=20.0).find(pixels())
    assert list(found) == ["jpeg", "gaussian"]
    assert found == pytest.approx({"jpeg": 20, "gaussian": 12}, abs=1e-3)


def test_noise_that_is_one_of_three_is_called_by_the_likeliest():
    tool = restorer(gaussian=20.0)
    kinds, bias = tool.network.config.kinds, tool.network.finder.head[2].bias
    chances = {"gaussian": 0.2, "speckle": 0.35, "poisson": 0.1, "jpeg": 0.45, "blur": 0.45}
    with torch.no_grad():
        bias[: len(kinds)] = torch.tensor([chances.get(name, 0.01) for name in kinds]).logit()
        bias[len(kinds) :] = 0.5
    assert tool.find(pixels()) == pytest.approx({"speckle": 0.15})
    with torch.no_grad():
        bias[kinds.index("gaussian")] = torch.tensor(0.01).logit()
    assert tool.find(pixels()) == {}


@pytest.mark.parametrize("mode", MODES)
def test_nothing_found_or_level_zero_changes_no_byte(mode):
    given = pixels(mode=mode)
    tool = restorer()
    for result in (tool.denoise(given), tool.restore(given, "auto"), tool.denoise(given, "gaussian=0")):
        assert not result.changed and np.array_equal(result.pixels, given)
    only_jpeg = restorer(jpeg=20.0)
    assert not only_jpeg.denoise(given).changed  # which is no noise
    assert only_jpeg.restore(given).changed


def test_where_only_salt_and_pepper_struck_all_other_pixels_keep_their_bytes():
    given = pixels(24, 24).clip(1, 254)
    struck = np.random.default_rng(1).random((24, 24)) < 0.2
    given[struck] = 255
    stated = restorer().denoise(given, "salt_and_pepper=20%")
    found = restorer(salt_and_pepper=0.2).denoise(given)
    for result in (stated, found):
        assert np.array_equal(result.pixels[~struck], given[~struck])
        assert (result.pixels[struck] != given[struck]).any()
    assert (restorer().denoise(given, "salt_and_pepper=20%,gaussian=9").pixels[~struck] != given[~struck]).any()


def test_what_is_missing_is_filled_from_the_edge_inwards():
    random = torch.Generator().manual_seed(0)
    missing = torch.rand(20, 30, generator=random) < 0.4
    missing[5:12, 6:15] = True
    even = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 20, 30)
    torch.testing.assert_close(filled(torch.where(missing, 1.0, even), missing), even)
    ramp = torch.linspace(0, 1, 30).expand(3, 20, 30)
    one = torch.zeros(20, 30, dtype=torch.bool)
    one[7, 9] = True
    torch.testing.assert_close(filled(torch.where(one, 0.0, ramp), one), ramp)
    wave = (torch.arange(30) * 0.3).sin().expand(3, 20, 30) * 0.4 + 0.5
    # The smoothest surface follows a wave, medians do not.
    made, medians = (fill(torch.where(missing, 0.0, wave), missing) for fill in (filled, median_fill))
    assert (made - wave)[:, missing].square().mean() < 0.5 * (medians - wave)[:, missing].square().mean()
    kept = filled(torch.where(missing, 0.0, ramp), missing)
    assert torch.equal(kept[:, ~missing], ramp[:, ~missing]) and float((kept - ramp).abs().max()) < 0.2
    nothing = torch.zeros(20, 30, dtype=torch.bool)
    assert torch.equal(filled(ramp, nothing), ramp)
    with pytest.raises(ValueError, match="the mask covers the whole picture"):
        filled(ramp, torch.ones(20, 30, dtype=torch.bool))


def test_white_that_stays_about_white_is_no_salt():
    network = finding(random_network(strength=0.0), salt_and_pepper=0.1)  # which changes nothing
    with torch.no_grad():
        network.conv_out.bias.fill_(-2 / 255)  # but makes all one level darker
    white = np.full((8, 8, 3), 255, np.uint8)
    assert np.array_equal(Restorer(network).denoise(white).pixels, white)


@pytest.mark.parametrize("size", [(40, 70), (33, 129), (64, 64)])
def test_tiles_are_exactly_parts_of_the_whole(size):
    network, rgb = random_network(), torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    stated = conditions(shares({"gaussian": 25.0}, network.config.kinds))
    whole = restoring.restored(network, rgb, stated)
    seen: list[int] = []
    network.conv_in.register_forward_pre_hook(lambda layer, given: seen.append(max(given[0].shape[2:])))
    torch.testing.assert_close(restoring.restored(network, rgb, stated, tile=16), whole, atol=1e-5, rtol=0)
    assert max(seen) <= 16 + 2 * network.margin < 129  # memory does not grow with the picture


def test_careful_is_the_mean_of_eight_and_turns_with_the_picture():
    tool, given = restorer(), pixels(12, 20)
    result = tool.denoise(given, "gaussian=25", careful=True)
    for turns in range(4):
        for turn in (lambda x, n=turns: np.rot90(x, n), lambda x, n=turns: np.rot90(x[:, ::-1], n)):
            turned = tool.denoise(np.ascontiguousarray(turn(given)), "gaussian=25", careful=True).pixels
            assert np.abs(turned.astype(int) - turn(result.pixels)).max() <= 1  # sums in another order round otherwise
    assert (tool.denoise(given, "gaussian=25").pixels != result.pixels).any()


def test_progress_counts_many_tiles(monkeypatch):
    monkeypatch.setattr(restoring.restored.__wrapped__, "__defaults__", (False, lambda *_: None, 8))
    reports: list[tuple[str, int, int]] = []
    restorer().denoise(pixels(24, 40), "gaussian=25", progress=lambda *each: reports.append(each))
    assert reports == [("restoring", done, 15) for done in range(1, 16)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", [2, 4])
def test_upscaled_is_larger_and_consistent_gives_the_picture_back(by, mode):
    given = pixels(6, 9, mode)
    result = restorer().upscale(given, by, consistent=mode in ("L", "RGB"))
    assert result.pixels.shape == (6 * by, 9 * by, MODES[mode]) and result.pixels.dtype == given.dtype
    if mode in ("L", "RGB"):
        small = result.pixels.reshape(6, by, 9, by, -1).mean((1, 3))
        assert np.abs(small - given).max() <= 1


def test_upscaled_by_one_is_the_picture_and_other_factors_are_refused():
    given = pixels()
    assert np.array_equal(restorer().upscale(given, 1).pixels, given)
    with pytest.raises(ValueError, match="by=3 is not what the restorer does; use 2 or 4"):
        restorer().upscale(given, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss=25", "unknown kind of damage 'gauss'; did you mean 'gaussian'"),
        ("jpeg=30", "unknown kind of damage 'jpeg'"),
        ("gaussian=61", "gaussian=61 is out of range; use a standard deviation from 0 to 60"),
        ("gaussian=-1", "gaussian=-1 is out of range"),
        ("salt_and_pepper=40%", "salt_and_pepper=0.4 is out of range; use a share from 0 to 0.3"),
        ("speckle=0.5", "speckle=0.5 is out of range"),
        ("poisson=2", "poisson=2 is out of range; use a number of quanta of at least 5"),
        ("gaussian=much", "gaussian=much is no number"),
        ("gaussian=3,gaussian=4", "gaussian is there twice"),
        ("gaussian=3,auto", "auto stands alone"),
        ("", "unknown kind of damage ''"),
    ],
)
def test_noise_that_no_restorer_knows_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        restorer().denoise(pixels(), text)


@pytest.mark.parametrize("text", ["blur=4", "blur=-1", "jpeg=5", "resize=8", "resize=0.5"])
def test_damage_out_of_range_is_refused(text):
    with pytest.raises(ValueError, match=r"is out of range"):
        restorer().restore(pixels(), text)


def test_the_png_says_how_it_was_made():
    tool, given = restorer(gaussian=24.0), pixels(mode="RGBA")
    result = tool.denoise(given, "gaussian=25", careful=True)
    with Image.open(io.BytesIO(result.png())) as image:
        assert np.array_equal(np.array(image), result.pixels)
        record = json.loads(image.info["restoration"])
    assert record["tool"] == "ldm denoise" and record["model"] == "tiny" and record["careful"] is True
    assert record["stated"] == {"gaussian": 25.0} and record["found"] == {"gaussian": pytest.approx(24, abs=1e-3)}
    assert len(record["source_sha256"]) == 64


def test_a_network_of_other_kinds_is_refused():
    with pytest.raises(ValueError, match=r"restorer other knows kinds=\['blur'\]"):
        Restorer(random_network(replace(TINY, kinds=("blur",))), "other")


def test_rotation_by_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(8, 20)).save(tmp_path / "a.png", exif=exif)
    assert restorer().denoise(tmp_path / "a.png", "gaussian=25").pixels.shape == (20, 8, 3)
