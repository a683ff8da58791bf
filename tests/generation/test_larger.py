"""The settings of larger pictures: tiles of the network, and patterns whose edges meet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.generation.cautions import cautions
from ldm.generation.request import Request
from ldm.generation.resolve import resolve_request
from ldm.io.metadata.a1111 import read_a1111
from ldm.networks.unet import UNet
from ldm.noise import NoiseSource

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


@pytest.fixture
def seen(model: LatentDiffusion) -> Iterator[LatentDiffusion]:
    """The model, whose plain picture must be the same afterwards."""
    before = model.steps(PATTERN).result.images[0].tobytes()
    yield model
    assert model.steps(PATTERN).result.images[0].tobytes() == before


PATTERN = Request(prompt="a red apple", seed=3, width=64, height=48, num_inference_steps=3)


def rolled(model: LatentDiffusion, request: Request, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The picture of rolled noise, and the rolled picture."""
    noise = NoiseSource([3], (4, 12, 16), model.device)()
    made, moved = (
        model.steps(request, latents=each, output_type="pt").result.images
        for each in (noise, noise.roll(cells, (2, 3)))
    )
    return moved, made.roll([each * 4 for each in cells], (2, 3))


@pytest.mark.parametrize(("axes", "cells"), [("x", (0, 6)), ("y", (4, 0)), ("xy", (2, -4))])
def test_rolled_noise_gives_the_rolled_picture(seen: LatentDiffusion, axes: str, cells: tuple[int, int]) -> None:
    moved, wanted = rolled(seen, replace(PATTERN, seamless=axes), cells)
    torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-3)
    moved, wanted = rolled(seen, PATTERN, cells)
    assert (moved - wanted).abs().max() > 0.01


def test_a_pattern_in_tiles_goes_round_too(seen: LatentDiffusion) -> None:
    """Tiles of 32 px that share 8 are 24 px apart, and at 48 px of height two of them: 24 px roll all onto others."""
    moved, wanted = rolled(seen, replace(PATTERN, width=64, seamless="y", tile_size=32), (6, 0))
    torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-3)


def test_a_pattern_is_repeated_by_its_recipe_and_says_so_to_others(model: LatentDiffusion) -> None:
    first = model.steps(replace(PATTERN, seamless="xy")).result
    foreign = read_a1111(first.recipes[0].parameters(), certain=True)
    assert foreign is not None and foreign.values["seamless"] == "xy"
    assert model.steps(first.recipes[0].request()).result.images[0].tobytes() == first.images[0].tobytes()


def test_two_threads_draw_with_and_without_edges_that_meet(model: LatentDiffusion) -> None:
    requests = [PATTERN, replace(PATTERN, seamless="xy")] * 2
    alone = [model.steps(request).result.images[0].tobytes() for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: model.steps(request).result.images[0].tobytes(), requests))
    assert together == alone


def test_impossible_patterns_are_one_line(model: LatentDiffusion) -> None:
    """Halved twice from cells of 4 px, maps go round at every 16 px; tiles change nothing of it."""
    with pytest.raises(ValueError, match=r"seamless.*'z'.*"):
        resolve_request(model, replace(PATTERN, seamless="z"))
    three = replace(model.parts.unet.config, widths=(8, 16, 16), transformer_layers=(1, 0, 0), num_heads=(2, 2, 2))
    coarse = LatentDiffusion(replace(model.parts, unet=UNet(three)))
    message = r"^height=40 is not a multiple of 16, which seamless='xy' needs here; use 32 or 48$"
    with pytest.raises(ValueError, match=message):
        resolve_request(coarse, replace(PATTERN, height=40, seamless="xy"))
    resolve_request(coarse, replace(PATTERN, height=40, seamless="x"))
