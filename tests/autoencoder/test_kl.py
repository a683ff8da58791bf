"""The KL autoencoder against diffusers' AutoencoderKL, and its folder opened by diffusers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import Gaussian, KLAutoencoder
from ldm.io.folder.autoencoder import save_autoencoder

SHAPES = {
    "sd1": AutoencoderConfig(widths=(8, 16, 32, 32), norm_groups=8),
    "sdxl": AutoencoderConfig(widths=(16, 16, 32, 32), norm_groups=4, latent_channels=4),
    "sd3": AutoencoderConfig(widths=(8, 16, 16, 16), norm_groups=4, latent_channels=16, quant_conv=False),
    "emoji": AutoencoderConfig(widths=(8, 16, 32), norm_groups=2, blocks_per_level=1, mid_attention=False),
    "kl-f16": AutoencoderConfig(widths=(8, 8, 16), norm_groups=4, latent_channels=6, attention_levels=(0, 2)),
    "grey": AutoencoderConfig(in_channels=1, widths=(8,), norm_groups=1, blocks_per_level=1),
}


def diffusers_twin(config: AutoencoderConfig) -> nn.Module:
    """diffusers' model of the same shape, made by its own constructor."""
    from diffusers import AutoencoderKL

    attention = [level in config.attention_levels for level in range(len(config.widths))]
    return AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=tuple("AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attention),
        up_block_types=tuple("AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in attention[::-1]),
        block_out_channels=config.widths,
        layers_per_block=config.blocks_per_level,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.quant_conv,
        mid_block_add_attention=config.mid_attention,
    )


def randomise(module: nn.Module) -> None:
    """Move every parameter away from its tidy start, so that a swapped or forgotten one shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_encode_and_decode_equal_diffusers(config: AutoencoderConfig, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    theirs = diffusers_twin(config).eval()
    randomise(theirs)
    ours = KLAutoencoder(config)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, config.in_channels, 4 * config.factor, 3 * config.factor) * 2 - 1
    with torch.no_grad():
        posterior, expected = ours.encode(x.contiguous(memory_format=layout)), theirs.encode(x).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(posterior.logvar, expected.logvar, atol=1e-5, rtol=1e-5)
        z = torch.randn_like(posterior.mean)
        torch.testing.assert_close(
            ours.decode(z.contiguous(memory_format=layout)), theirs.decode(z).sample, atol=1e-5, rtol=1e-5
        )


def test_forward_is_decode_of_the_posterior_sample() -> None:
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(SHAPES["emoji"])
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    noise = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        posterior = autoencoder.encode(x)
        sampled = autoencoder.decode(posterior.mean + posterior.std * noise)
        torch.testing.assert_close(autoencoder(x, noise)[0], sampled)
        torch.testing.assert_close(autoencoder(x)[0], autoencoder.decode(posterior.mean))


def test_gaussian_kl_and_sample_equal_torch_distributions() -> None:
    torch.manual_seed(0)
    posterior = Gaussian.from_moments(torch.randn(3, 8, 2, 2))
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(normal, standard).sum((1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected)
    noise = torch.randn(3, 4, 2, 2)
    torch.testing.assert_close((posterior.sample(noise) - normal.mean) / normal.stddev, noise)


@pytest.mark.parametrize("name", ["emoji", "sd3", "kl-f16", "grey"])
def test_exported_folder_opens_in_diffusers_and_decodes_the_same(name: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    config = SHAPES[name]
    ours = KLAutoencoder(config).to(memory_format=torch.channels_last)
    randomise(ours)
    save_autoencoder(ours, tmp_path / "vae", scaling_factor=0.5)
    theirs, report = AutoencoderKL.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(report.values())
    assert theirs.config.scaling_factor == 0.5
    z = torch.randn(1, config.latent_channels, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(theirs.decode(z).sample, ours.decode(z), atol=1e-5, rtol=1e-5)


def test_export_in_half_precision_holds_rounded_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    autoencoder = KLAutoencoder(SHAPES["emoji"])
    save_autoencoder(autoencoder, tmp_path, dtype=torch.float16)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[name], value.half()) for name, value in autoencoder.state_dict().items())


@pytest.mark.parametrize(
    ("size", "message"),
    [((18, 16), "height=18 is not a multiple of 4; use 16 or 20"), ((16, 3), "width=3 is not a multiple of 4; use 4")],
)
def test_a_size_off_the_grid_is_refused_with_the_mend(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLAutoencoder(SHAPES["emoji"]).encode(torch.zeros(1, 3, *size))


def test_widths_must_suit_the_groups() -> None:
    with pytest.raises(ValueError, match="holds 24, not a multiple of norm_groups=16"):
        AutoencoderConfig(widths=(16, 24), norm_groups=16)
    with pytest.raises(ValueError, match="widths"):
        AutoencoderConfig(widths=())
