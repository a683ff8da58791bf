"""The VQ autoencoder against diffusers' VQModel, the laws of its codebook, and its folder in both directions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoencoder.build import build_autoencoder
from autoencoder.codebook import Codebook
from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.training.objective import AutoencoderObjective
from autoencoder.training.trainable import perplexity, trained, usage
from autoencoder.vq import VQAutoencoder
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder

SHAPES = {
    "vq-f4": AutoencoderConfig(widths=(8, 16, 32), norm_groups=8, latent_channels=3, codebook_size=64),
    "vq-f8": AutoencoderConfig(
        widths=(8, 16, 16, 32), norm_groups=8, attention_levels=(3,), codebook_size=32, codebook_dim=6
    ),
    "bare": AutoencoderConfig(widths=(8,), norm_groups=2, blocks_per_level=1, mid_attention=False, codebook_size=16),
}
TINY = AutoencoderConfig(
    widths=(8, 16), norm_groups=2, blocks_per_level=1, mid_attention=False, latent_channels=2, codebook_size=32
)


def diffusers_twin(config: AutoencoderConfig) -> nn.Module:
    """diffusers' model of the same shape, made by its own constructor."""
    from diffusers import VQModel

    attention = [level in config.attention_levels for level in range(len(config.widths))]
    return VQModel(
        down_block_types=tuple("AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attention),
        up_block_types=tuple("AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in attention[::-1]),
        block_out_channels=config.widths,
        layers_per_block=config.blocks_per_level,
        latent_channels=config.latent_channels,
        num_vq_embeddings=config.codebook_size,
        vq_embed_dim=config.codebook_dim or None,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
    )


def randomise(module: nn.Module) -> None:
    """Move every parameter away from its tidy start, so that a swapped or forgotten one shows; codes far apart."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        module.quantize.embedding.weight.normal_()


def pictures(config: AutoencoderConfig, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 4 * config.factor, 3 * config.factor) * 2 - 1


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_encode_and_decode_equal_diffusers(config: AutoencoderConfig) -> None:
    torch.manual_seed(0)
    theirs = diffusers_twin(config).eval()
    randomise(theirs)
    ours = VQAutoencoder(config)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = pictures(config)
    with torch.no_grad():
        z = theirs.encode(x).latents
        torch.testing.assert_close(ours.encode(x).mean, z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, atol=1e-5, rtol=1e-5)
        output, quantized = ours(x)
        torch.testing.assert_close(output, theirs(x).sample, atol=1e-5, rtol=1e-5)
        # diffusers keeps the published VQGAN's slip: there the commitment has weight 1 and the codebook 0.25.
        _, expected, (_, _, indices) = theirs.quantize(z)
        torch.testing.assert_close(quantized.commitment_loss + 0.25 * quantized.codebook_loss, expected)
        assert torch.equal(quantized.indices.flatten(), indices)


@pytest.mark.parametrize("name", ["vq-f8", "bare"])
def test_exported_folder_opens_in_diffusers_and_decodes_the_same(name: str, tmp_path: Path) -> None:
    from diffusers import VQModel

    torch.manual_seed(0)
    ours = VQAutoencoder(SHAPES[name])
    randomise(ours)
    save_autoencoder(ours, tmp_path / "vae", scaling_factor=0.5)
    theirs, report = VQModel.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(report.values())
    assert theirs.config.scaling_factor == 0.5
    z = torch.randn(1, SHAPES[name].code_channels, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(theirs.decode(z).sample, ours.decode(z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_folder_that_diffusers_saved_is_opened(config: AutoencoderConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = diffusers_twin(config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "vae")
    ours, latent_format = load_autoencoder(tmp_path)
    assert isinstance(ours, VQAutoencoder)
    assert replace(ours.config, codebook_dim=config.codebook_dim) == config
    assert (latent_format.channels, latent_format.factor) == (config.code_channels, config.factor)
    x = pictures(config)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x).mean, theirs.encode(x).latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "cells"), [(300, (2, 7, 5)), (2**14, (1, 30, 37))], ids=["at once", "in parts"])
def test_nearest_code_is_the_one_of_a_search_in_double_precision(size: int, cells: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codebook = Codebook(size, 4)
    nn.init.normal_(codebook.embedding.weight)
    z = torch.randn(*cells, 4)
    distances = torch.cdist(z.double(), codebook.embedding.weight.double())
    assert torch.equal(codebook.nearest(z), distances.argmin(-1))


def test_gradient_passes_straight_through_and_each_loss_moves_its_own_side() -> None:
    torch.manual_seed(0)
    codebook = Codebook(16, 3)
    nn.init.normal_(codebook.embedding.weight)
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    quantized = codebook(z)
    chosen = codebook.embedding.weight[quantized.indices].movedim(-1, 1)
    torch.testing.assert_close(quantized.codes, chosen)
    push = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(quantized.codes, z, push, retain_graph=True)
    assert torch.equal(gradient, push)
    sides = z, codebook.embedding.weight
    at_latent, at_code = torch.autograd.grad(quantized.commitment_loss, sides, retain_graph=True, allow_unused=True)
    torch.testing.assert_close(at_latent, 2 * (z - chosen).detach() / z.numel())
    assert at_code is None
    at_latent, at_code = torch.autograd.grad(quantized.codebook_loss, sides, allow_unused=True)
    assert at_latent is None
    summed = torch.zeros_like(codebook.embedding.weight)
    pull = (2 * (chosen - z).detach() / z.numel()).movedim(1, -1).flatten(0, 2)
    summed.index_add_(0, quantized.indices.flatten(), pull)
    torch.testing.assert_close(at_code, summed)


def test_codes_are_chosen_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    codebook = Codebook(64, 4)
    nn.init.normal_(codebook.embedding.weight, 100.0, 0.1)  # bf16 cannot tell these apart
    z = codebook.embedding.weight.detach()[:16].view(1, 4, 4, 4).movedim(-1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert codebook(z).indices.flatten().tolist() == list(range(16))


def test_latents_before_the_codebook_have_no_spread() -> None:
    torch.manual_seed(0)
    posterior = VQAutoencoder(TINY).encode(pictures(TINY))
    assert not posterior.std.any()
    assert torch.equal(posterior.sample(torch.randn_like(posterior.mean)), posterior.mean)


def test_perplexity_counts_even_codes_and_usage_those_alive() -> None:
    assert float(perplexity(torch.tensor([3.0, 3, 3, 3, 0, 0]))) == pytest.approx(4)
    assert float(perplexity(torch.tensor([0.0, 9, 0]))) == pytest.approx(1)
    entropy = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log())
    assert float(perplexity(torch.tensor([3.0, 1.0]))) == pytest.approx(float(entropy.exp()))
    assert float(usage(torch.tensor([0.0, 0.2, 0.5, 7.0]))) == 0.5


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def test_counts_are_a_decayed_histogram_and_only_training_counts() -> None:
    torch.manual_seed(0)
    module_name = trained(VQAutoencoder(TINY), LossConfig(code_memory=2.0), decoder_only=False)
    x = pictures(TINY, 4)  # twice the memory: a batch leaves a quarter
    module_name(x, generators(4))
    once = module_name.code_counts.clone()
    assert once.sum() == 4 * 4 * 3
    module_name(x, generators(4))
    torch.testing.assert_close(module_name.code_counts, 1.25 * once)
    with torch.no_grad():
        module_name(x, generators(4))
    module_name.eval()(x, generators(4))
    torch.testing.assert_close(module_name.code_counts, 1.25 * once)


def test_loss_is_reconstruction_plus_weighted_codebook_terms() -> None:
    torch.manual_seed(0)
    loss = LossConfig(perceptual_weight=0.0, codebook_weight=0.7, commitment_weight=0.3)
    objective = AutoencoderObjective(VQAutoencoder(TINY), loss)
    x = pictures(TINY)
    result = objective.loss("autoencoder", {"image": x}, generators(2), 0)
    output, quantized = objective.autoencoder(x)
    expected = F.l1_loss(output, x) + 0.7 * quantized.codebook_loss + 0.3 * quantized.commitment_loss
    torch.testing.assert_close(result["loss"], expected)
    assert {"codebook", "usage", "perplexity"} <= result.keys() and "kl" not in result
    parameters = list(objective.autoencoder.parameters())
    pairs = zip(torch.autograd.grad(result["loss"], parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def train_steps(loss: LossConfig, steps: int = 30) -> tuple[AutoencoderObjective, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    model = VQAutoencoder(TINY)
    with torch.no_grad():
        model.quantize.embedding.weight[1:].add_(100.0)  # all codes but one are out of every latent's reach
    objective = AutoencoderObjective(model, loss)
    optimizer = torch.optim.Adam(objective.trained_modules["autoencoder"].parameters(), lr=3e-3)
    x = F.interpolate(torch.rand(8, 3, 3, 3) * 2 - 1, size=(16, 16), mode="bilinear")
    results = []
    for step in range(steps):
        results.append(objective.loss("autoencoder", {"image": x}, generators(8), step))
        optimizer.zero_grad()
        results[-1]["loss"].backward()
        optimizer.step()
    return objective, results


@pytest.mark.slow
def test_dead_codes_are_revived_by_restarts_alone() -> None:
    plain = LossConfig(perceptual_weight=0.0, code_memory=32.0)
    _, without = train_steps(plain)
    objective, with_restarts = train_steps(replace(plain, restart_codes=True))
    assert float(without[-1]["perplexity"]) == pytest.approx(1)
    assert float(with_restarts[-1]["perplexity"]) > 8 and float(with_restarts[-1]["usage"]) > 0.5
    assert float(with_restarts[-1]["l1"]) < float(without[-1]["l1"])
    assert objective.autoencoder.quantize.embedding.weight.abs().max() < 50


def test_restarts_are_the_same_for_the_same_draws() -> None:
    loss = LossConfig(perceptual_weight=0.0, code_memory=32.0, restart_codes=True)
    first, second = (train_steps(loss, 3)[0].trained_modules["autoencoder"].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert "code_counts" in first


def _restart_on_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    module_name = trained(VQAutoencoder(TINY), LossConfig(restart_codes=True), decoder_only=False)
    torch.manual_seed(rank)
    module_name(pictures(TINY), generators(2))
    torch.save(module_name.model.quantize.embedding.weight.detach(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_with_different_pictures_restart_the_same_codes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_restart_on_one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    assert not torch.equal(first, VQAutoencoder(TINY).quantize.embedding.weight)


def test_configuration_chooses_the_class() -> None:
    assert isinstance(build_autoencoder(TINY), VQAutoencoder)
    assert isinstance(build_autoencoder(replace(TINY, codebook_size=0)), KLAutoencoder)
    with pytest.raises(ValueError, match="codebook_size=32 belongs to a VQAutoencoder"):
        KLAutoencoder(TINY)
    with pytest.raises(ValueError, match="codebook_size=0 is a KLAutoencoder"):
        VQAutoencoder(replace(TINY, codebook_size=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": -1}, "codebook_size=-1"),
        ({"codebook_size": 0, "codebook_dim": 4}, "codebook_dim=4 needs a codebook"),
        ({"quant_conv": False}, "needs quant_conv=True"),
        ({"attention_levels": (2,)}, "attention_levels holds 2; widths has the levels 0 to 1"),
    ],
)
def test_shapes_without_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
