"""Latent formats, latent statistics and whitening folded into the autoencoder."""

import pytest
import torch

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat, fit_preview, fold_whitening, measure_latents

CONFIG = AutoencoderConfig(widths=(8, 16), norm_groups=4, blocks_per_level=1, mid_attention=False)


@pytest.fixture
def autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    model = KLAutoencoder(CONFIG)
    with torch.no_grad():  # channels of different spread, off centre
        model.quant_conv.weight.mul_(torch.tensor([0.3, 1, 5, 20, 1, 1, 1, 1])[:, None, None, None])
        model.quant_conv.bias.add_(torch.tensor([3.0, -2, 0, 7, -1, -4, 0, 1]))
    return model


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_folded_whitening_changes_no_picture_and_whitens_the_latents(autoencoder, pictures) -> None:
    mean, std = measure_latents(autoencoder, pictures.split(2))
    with torch.no_grad():
        before = autoencoder.encode(pictures)
        noise = torch.randn_like(before.mean)
        picture = autoencoder.decode(before.sample(noise))
        fold_whitening(autoencoder, mean, std)
        after = autoencoder.encode(pictures)
        shape = (1, -1, 1, 1)
        whitened = (before.sample(noise) - mean.view(shape)) / std.view(shape)
        torch.testing.assert_close(after.sample(noise).double(), whitened, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(autoencoder.decode(after.sample(noise)), picture, atol=1e-4, rtol=1e-4)
    mean, std = measure_latents(autoencoder, [pictures])
    torch.testing.assert_close(mean, torch.zeros(4).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(4).double(), atol=1e-4, rtol=0)


def test_measured_statistics_are_those_of_sampled_latents(autoencoder, pictures) -> None:
    mean, std = measure_latents(autoencoder, pictures.split(4))
    with torch.no_grad():
        posterior = autoencoder.encode(pictures)
    generator = torch.Generator().manual_seed(2)
    draws = [posterior.sample(torch.randn(posterior.mean.shape, generator=generator)) for _ in range(400)]
    samples = torch.stack(draws).double()
    torch.testing.assert_close(mean, samples.mean((0, 1, 3, 4)), atol=0.02, rtol=0.01)
    torch.testing.assert_close(std, samples.std((0, 1, 3, 4)), atol=0.0, rtol=0.02)


def test_whitening_needs_a_quant_conv_and_channels_that_vary(autoencoder) -> None:
    with pytest.raises(ValueError, match="std="):
        fold_whitening(autoencoder, torch.zeros(4), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    bare = KLAutoencoder(AutoencoderConfig(widths=(8,), norm_groups=4, quant_conv=False))
    with pytest.raises(ValueError, match="quant_conv=False"):
        fold_whitening(bare, torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="batches is empty"):
        measure_latents(autoencoder, [])


@pytest.mark.parametrize(
    "latent_format",
    [
        LatentFormat(scale=0.18215),
        LatentFormat(scale=0.3611, shift=0.1159),
        LatentFormat(scale=0.5, mean=(1.0, -2.0, 0.5, 0.0), std=(8.4, 6.6, 5.0, 0.1)),
    ],
)
def test_to_autoencoder_inverts_to_model(latent_format: LatentFormat) -> None:
    z = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(latent_format.to_autoencoder(latent_format.to_model(z)), z)


def test_latent_format_follows_diffusers_conventions() -> None:
    z = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(LatentFormat(scale=0.13025).to_model(z), z * 0.13025)
    torch.testing.assert_close(LatentFormat(scale=0.3611, shift=0.1159).to_model(z), (z - 0.1159) * 0.3611)
    mean, std = (1.0, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0, 4.0)
    expected = (z - torch.tensor(mean).view(1, 4, 1, 1)) * 0.5 / torch.tensor(std).view(1, 4, 1, 1)
    torch.testing.assert_close(LatentFormat(scale=0.5, mean=mean, std=std).to_model(z), expected)


def test_fitted_preview_recovers_linear_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 8, 8, generator=generator)
    matrix = 0.1 * torch.randn(5, 3, generator=generator)
    small = torch.einsum("bchw,cr->brhw", z, matrix[:4]) + matrix[4].view(1, 3, 1, 1)
    x = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    latent_format = LatentFormat(preview=fit_preview(z, x))
    torch.testing.assert_close(latent_format.to_rgb(z), (small / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)


def test_latent_format_refuses_the_wrong_number_of_rows() -> None:
    with pytest.raises(ValueError, match="std has 3 entries; channels=4 needs 4"):
        LatentFormat(std=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="preview=None"):
        LatentFormat().to_rgb(torch.zeros(1, 4, 2, 2))
