"""The benchmark behind "Fewer evaluations" in docs/performance.md: what it compares, and with what."""

from pathlib import Path

import pytest
import torch
from unet_twins import SD1

from benchmarks.fewer_evaluations import WAYS, Way, of_model, of_network
from ldm import LatentDiffusion
from ldm.networks.unet import UNet


def test_the_first_way_is_plain_and_names_are_options() -> None:
    assert WAYS[0] == Way() and WAYS[0].name == "plain"
    way = Way(guidance={"guidance_reuse": 2}, cache={"deepcache": 3}, fast=True)
    assert way.name == "--guidance guidance_reuse=2 --cache deepcache=3 --fast"


@torch.inference_mode()
def test_the_distance_is_that_of_the_last_latents() -> None:
    torch.manual_seed(0)
    lines = of_network(UNet(SD1).requires_grad_(False), [Way(), Way(cache={"deepcache": 2})], cells=8, steps=4)
    assert lines[2] == "| plain | 4 | 0.0000 |"
    name, runs, distance = (cell.strip() for cell in lines[3].strip("|").split("|"))
    assert (name, runs) == ("--cache deepcache=2", "2") and 0 < float(distance) < 1


def test_the_plain_way_is_nearest_to_itself(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    lines = of_model(model, [Way(), Way(cache={"deepcache": 2})], ["apple", "dark sea"], steps=4)
    ratio, near = (float(cell) for cell in lines[2].strip("|").split("|")[1:])
    assert ratio == pytest.approx(1) and near == 100
    assert float(lines[3].strip("|").split("|")[2]) < 100
