"""Outpainting: the picture stays in its place, to the byte, whatever is added around it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from task_models import picture

from ldm import LatentDiffusion
from ldm.tasks.outpaint import Outpaint, extended
from ldm.tasks.picture import Picture

SIDES = ({"left": 5}, {"top": 16, "right": 1}, {"left": 3, "top": 9, "right": 12, "bottom": 30})


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def extend(model: LatentDiffusion, given: Any, **settings: Any):
    own = {
        key: settings.pop(key)
        for key in (*SIDES[2], "feather", "strength", "resample", "resample_jump")
        if key in settings
    }
    task = Outpaint(picture=Picture.of(given), **own)
    knobs = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 3.0, **settings}
    return model("apple", task=task, **knobs)


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_pictures_bytes_are_in_their_place(model, sides: dict[str, int], channels: int) -> None:
    pixels = picture(23, 30, channels)
    left, top, right, bottom = (sides.get(side, 0) for side in ("left", "top", "right", "bottom"))
    (image,) = extend(model, pixels, **sides).images
    made = np.asarray(image).reshape(23 + top + bottom, 30 + left + right, channels)
    assert np.array_equal(made[top : top + 23, left : left + 30], pixels)
    if channels in (2, 4):
        made = made.copy()
        made[top : top + 23, left : left + 30, -1] = 255
        assert (made[..., -1] == 255).all()


def test_a_mirrored_picture_is_extended_to_the_mirror_image() -> None:
    pixels = picture(20, 31)
    there = extended(Picture.of(pixels), 7, 3, 20, 0)
    back = extended(Picture.of(pixels[:, ::-1]), 20, 3, 7, 0)[:, ::-1]
    assert np.abs(there.astype(int) - back).max() <= 1  # sums of a window begin at the other end


def test_the_order_of_sides_changes_no_shape_and_flat_ground_stays_flat() -> None:
    flat = np.full((9, 9, 3), (200, 30, 90), np.uint8)
    one = extended(Picture.of(extended(Picture.of(flat), 8, 0, 0, 0)), 0, 0, 5, 0)
    other = extended(Picture.of(extended(Picture.of(flat), 0, 0, 5, 0)), 8, 0, 0, 0)
    assert np.array_equal(one, other) and (one == flat[0, 0]).all()


def test_it_grows_smooth_with_distance() -> None:
    around = extended(Picture.of(picture(40, 40)), 0, 0, 64, 0).astype(float)
    roughness = [np.abs(np.diff(around[8:32, 40 + at], axis=0)).mean() for at in (0, 10, 60)]
    assert roughness[0] > 2 * roughness[1] > 3 * roughness[2]


def test_a_full_part_is_drawn_anew_and_strength_0_is_the_extension(model) -> None:
    pixels = picture(32, 32)
    kept = extend(model, pixels, right=16, strength=0.0, feather=0).images[0]
    assert np.array_equal(np.asarray(kept), extended(Picture.of(pixels), 0, 0, 16, 0))
    made = np.asarray(extend(model, pixels, right=16).images[0])
    assert (made[:, 33:] != np.asarray(kept)[:, 33:]).mean() > 0.5


def test_what_is_much_larger_than_the_models_pictures_is_filled_in_windows(tiny_folder, tmp_path, monkeypatch) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder, engine="eager")
    seen, forward = [], model.unet.forward

    def watched(x, *more, **names):
        seen.append(x.shape)
        return forward(x, *more, **names)

    monkeypatch.setattr(model.unet, "forward", watched)
    own, pixels = model.parts.defaults.width, picture(32, 32)
    assert own == 32
    Image.fromarray(pixels).save(tmp_path / "in.png")  # what comes from a file has a recipe
    for right, widest in ((16, 48), (17, 32), (64, 32)):
        seen.clear()
        result = extend(model, tmp_path / "in.png", right=right)
        made = np.asarray(result.images[0])
        assert made.shape == (32, 32 + right, 3) and np.array_equal(made[:, :32], pixels)
        assert {shape[-1] * model.parts.latent_format.factor for shape in seen} == {widest}
        assert result.recipes[0].tile_overlap == (None if widest > own else own // 2)
    extend(model, pixels, right=64, tile_size=96)
    assert seen[-1][-1] * model.parts.latent_format.factor == 96


def test_a_recipe_repeats_it(model, tmp_path: Path) -> None:
    Image.fromarray(picture(23, 30)).save(tmp_path / "in.png")
    first = extend(model, tmp_path / "in.png", left=11, bottom=3)
    assert (first.recipes[0].width, first.recipes[0].height) == (41, 26)
    again = model.steps(first.recipes[0].request()).result
    assert again.images[0].tobytes() == first.images[0].tobytes()


def test_nothing_to_extend_and_another_size_are_refused(model) -> None:
    with pytest.raises(ValueError, match="there are 0 pixels to extend; say how many, with left, top, right or bottom"):
        extend(model, picture())
    with pytest.raises(ValueError, match="outpainting makes 40 x 32 pixels of this picture"):
        extend(model, picture(), left=8, width=64)
    with pytest.raises(ValueError, match="left=-1 is not possible; use 0 to 16,384"):
        extend(model, picture(), left=-1)
