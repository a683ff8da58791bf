"""The benchmark behind docs/training/performance.md: both sides train one network, and it prints what it measured."""

from pathlib import Path

import pytest
import torch

from autoencoder.config import AutoencoderConfig
from benchmarks.training import LATENTS, Ours, Theirs, kinds, measure, profile, table
from benchmarks.training_cases import Case, random_parts
from ldm.io.folder.load import save_folder
from ldm.networks.unet import UNetConfig

pytestmark = pytest.mark.slow


def _parts():
    unet = UNetConfig(
        widths=(8, 16),
        blocks_per_level=1,
        transformer_layers=(0, 1),
        num_heads=(1, 2),
        context_dim=64,
        norm_groups=4,
    )
    return random_parts(unet, AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4), layers=1, size=16)


CASE = Case(_parts, 16, 2)


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_both_start_from_the_same_weights_and_every_step_moves_them(tmp_path: Path) -> None:
    parts = _parts()
    save_folder(parts, tmp_path)
    ours, theirs = (side(CASE, parts, "fp32", tmp_path) for side in (Ours, Theirs))
    mine, others = ours.trainer.trained_modules["unet"].module.state_dict(), theirs.unet.state_dict()
    assert mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)
    for step, weight in ((ours, mine["conv_in.weight"]), (theirs, others["conv_in.weight"])):
        for how in LATENTS:
            before = weight.clone()
            step(how)
            assert not torch.equal(before, weight)


@pytest.mark.parametrize("same_memory", [False, True])
def test_a_round_is_a_step_of_each(same_memory: bool, tmp_path: Path) -> None:
    found = measure(CASE, "bf16", 1, tmp_path, same_memory)
    assert {key: len(values) for key, values in found.items()} == {
        (who, how): 1 for who in ("ldm", "diffusers") for how in LATENTS
    }


def test_the_table_has_medians_and_their_ratios() -> None:
    found = {("ldm", "live"): [4.0, 90.0, 6.0], ("ldm", "cached"): [9.0]}
    found |= {("diffusers", "live"): [3.0], ("diffusers", "cached"): [4.5]}
    lines = table({"toy": found}).splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["2.00", "3.00", "2.00"]


def test_profile_gives_every_stage_and_kind_its_time(tmp_path: Path) -> None:
    text = profile(CASE, "fp32", 1, tmp_path)
    for stage in ("latents", "captions", "network, forward", "backward", "optimizer", "average"):
        live, cached = (float(cell) for cell in text.split(f"| {stage} | ")[1].split(" |\n")[0].split(" | "))
        assert live > 0 and cached > 0
    x = torch.randn(64, 64)
    split = kinds(lambda: (x @ x, None)[1])
    assert max(split, key=lambda kind: split[kind]) == "matrix products"
