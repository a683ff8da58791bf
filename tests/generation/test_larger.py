"""The settings of larger pictures: tiles of the network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm import LatentDiffusion
from ldm.generation.cautions import cautions
from ldm.generation.request import Request
from ldm.generation.resolve import resolve_request

LARGE = Request(prompt="a red apple", seed=3, width=64, height=48, num_inference_steps=3, tile_size=32)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu")


def test_a_drawing_in_tiles_is_repeated_by_its_recipe(model: LatentDiffusion) -> None:
    """The network sees nothing larger than a tile, and the recipe says all of it."""
    seen: list[tuple[int, ...]] = []
    hook = model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    try:
        first = model.steps(replace(LARGE, tile_jitter=True)).result
    finally:
        hook.remove()
    assert set(seen) == {(8, 8)}
    recipe = first.recipes[0]
    assert (recipe.tile_size, recipe.tile_overlap, recipe.tile_jitter) == (32, 8, True)
    assert model.steps(recipe.request()).result.images[0].tobytes() == first.images[0].tobytes()
    assert model.steps(LARGE).result.images[0].tobytes() != first.images[0].tobytes()


def test_tiles_as_large_as_the_picture_change_no_byte(model: LatentDiffusion) -> None:
    pictures = [model.steps(replace(LARGE, tile_size=size)).result.images[0] for size in (None, 64, 512)]
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_keywords_are_the_requests(model: LatentDiffusion) -> None:
    settings = {"width": 64, "height": 48, "num_inference_steps": 2, "tile_size": 32, "tile_overlap": 16}
    called = model("a red apple", seed=3, output_type="pt", **settings).images  # type: ignore[arg-type]
    stepped = model.steps(Request(prompt="a red apple", seed=3, **settings), output_type="pt").result.images
    assert torch.equal(called, stepped)


def test_what_is_said_of_the_size_is_said_of_the_tile(model: LatentDiffusion) -> None:
    large = replace(LARGE, width=256, height=256)
    assert not [line for line in cautions(model, large) if "trained" in line]
    assert [line for line in cautions(model, replace(large, tile_size=None)) if "256 x 256 is" in line]
    assert [line for line in cautions(model, replace(large, tile_size=128)) if "a tile of 128 x 128 is" in line]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_size": 36}, r"tile_size=36 is not a multiple of 8; use 32 or 40"),
        ({"tile_size": 4}, r"tile_size=4 is not possible; use 8 to 65,536"),
        ({"tile_overlap": 12}, r"tile_overlap=12 is not a multiple of 8; use 8 or 16"),
        ({"tile_overlap": 32}, r"tile_overlap=32 is not less than tile_size=32; use 8 or so"),
        ({"tile_overlap": -8}, r"tile_overlap=-8 is not possible; use 0 to 65,536"),
        ({"tile_size": None, "tile_overlap": 8}, r"tile_overlap=8 is without effect; give a tile_size, too"),
        ({"tile_size": None, "tile_jitter": True}, r"tile_jitter=True is without effect; give a tile_size, too"),
    ],
)
def test_impossible_tiles_are_one_line(model: LatentDiffusion, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        resolve_request(model, replace(LARGE, **settings))
