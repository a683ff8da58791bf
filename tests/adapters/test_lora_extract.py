"""What a fine-tune changed, as a LoRA: exact at full rank, the best there is below, and the command that writes it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.extract import low_rank_difference, whole_difference
from ldm.cli import app
from ldm.io.lora.load import load_lora
from ldm.io.lora.write import save_lora
from ldm.networks.unet import UNet


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> UNet:
    return LatentDiffusion.from_pretrained(tiny_folder).unet


def tuned_of(base: UNet, rank: int | None = None) -> UNet:
    """A copy with changes of this rank in every layer; None is of all ranks, and biases and norms change too."""
    tuned, generator = copy.deepcopy(base), torch.Generator().manual_seed(2)
    for module in tuned.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        weight = module.weight.data
        flat = weight.flatten(1)
        if rank is None:
            flat += 0.1 * torch.randn(flat.shape, generator=generator)
        else:
            up = torch.randn(flat.shape[0], rank, generator=generator)
            flat += 0.1 * up @ torch.randn(rank, flat.shape[1], generator=generator)
    if rank is None:
        for name, parameter in tuned.named_parameters():
            if name.endswith("bias"):
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return tuned


@pytest.mark.parametrize(("rank", "of"), [(2, 2), (10_000, None)])
def test_a_change_of_no_higher_rank_comes_back(base: UNet, rank: int, of: int | None) -> None:
    tuned = tuned_of(base, of)
    found = low_rank_difference(base, tuned, "unet", rank)
    assert found.kept == pytest.approx(1.0, abs=1e-6)
    merged = copy.deepcopy(base)
    LoraSet(merged).add(found.deltas, "change")
    for (name, one), other in zip(merged.named_parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)


def test_what_is_left_is_the_tail_of_the_singular_values(base: UNet) -> None:
    tuned, rank = tuned_of(base), 3
    found = low_rank_difference(base, tuned, "unet", rank)
    total = left = 0.0
    for (name, before), after in zip(base.named_parameters(), tuned.parameters(), strict=True):
        difference = (after - before).detach().double()
        total += difference.square().sum().item()
        if difference.ndim > 1:
            left += torch.linalg.svdvals(difference.flatten(1))[rank:].square().sum().item()
        assert name
    assert found.kept == pytest.approx(1 - left / total, abs=1e-5)


def test_equal_networks_have_no_difference_and_others_are_refused(base: UNet) -> None:
    assert low_rank_difference(base, copy.deepcopy(base), "unet", 4).deltas == {}
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        low_rank_difference(base, base, "unet", 0)
    other = copy.deepcopy(base)
    other.conv_in = nn.Conv2d(other.conv_in.in_channels, 3, 3)
    with pytest.raises(ValueError, match=r"unet\.conv_in has another shape"):
        low_rank_difference(base, other, "unet", 4)


def test_a_whole_change_of_a_text_tower_comes_back_with_its_embeddings(tiny_folder: Path, tmp_path: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert model.parts.text is not None
    base = model.parts.text.towers[0].model
    assert isinstance(base, nn.Module)
    tuned, generator = copy.deepcopy(base), torch.Generator().manual_seed(3)
    for parameter in tuned.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    before = copy.deepcopy(base)
    save_lora(tmp_path / "words.safetensors", whole_difference(base, tuned, "text_encoder"))
    loras = LoraSet(model.unet, base)
    report = load_lora(loras, tmp_path / "words.safetensors")
    assert report.matched == report.total == len(list(base.parameters()))
    for (name, one), other in zip(base.named_parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=name)
    loras.unload()
    for (name, one), other in zip(base.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other), name

    low = low_rank_difference(base, tuned, "text_encoder", 10_000)  # for which other programs have no words
    assert not any("embedding" in name for name in low.deltas) and low.kept < 0.99


def test_the_command_writes_a_lora_that_makes_the_base_the_fine_tune(tiny_folder: Path, tmp_path: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    model.parts.unet.load_state_dict(tuned_of(model.unet, 2).state_dict())
    model.save_pretrained(tmp_path / "tuned")
    file = tmp_path / "change.safetensors"
    arguments = ["convert", str(tmp_path / "tuned"), str(file), "--to", "lora", "--rank", "2"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0 and "--to lora needs --base MODEL" in refused.stderr
    result = CliRunner().invoke(app, [*arguments, "--base", str(tiny_folder)])
    assert result.exit_code == 0 and "of the squared difference" in result.stderr, result.stderr
    again = LatentDiffusion.from_pretrained(tiny_folder)
    assert not again.load_lora(file).unmatched
    options = {"seed": 3, "num_inference_steps": 3, "output_type": "latent"}
    torch.testing.assert_close(again("apple", **options).images, model("apple", **options).images, atol=2e-2, rtol=1e-2)
