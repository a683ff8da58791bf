"""The networks that a run trains, built without weights and data, each with a pass of the right shapes through it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from autoencoder.build import build_autoencoder
from autoencoder.config import LossConfig
from autoencoder.discriminator import PatchDiscriminator
from autoencoder.trained import Trained, trained
from autoencoder.vq import VQAutoencoder
from conditioning.bundle import Conditioning
from ldm.training.run import AutoencoderRun, LatentDiffusionRun, Run
from ldm.training.trace import Pass
from ldm.unet import UNet, UNetConfig

_TOKENS = 77  # that CLIP reads


@dataclass(frozen=True)
class Network:
    """A player: how it is built, and a pass of so many samples through it, with its loss."""

    name: str
    build: Callable[[], nn.Module]
    run: Pass


def networks(run: Run, factor: int = 8) -> list[Network]:
    """The players of a run in the order in which they step.

    factor: pixels for a latent cell along each axis, of the autoencoder that a denoiser works with.

    Raises:
        ValueError: a task whose networks are small (clip, upscaler).
    """
    if isinstance(run, LatentDiffusionRun):
        size = run.data.size // factor
        return [Network("unet", partial(UNet, run.unet), partial(_denoise, run.unet, size))]
    if isinstance(run, AutoencoderRun):
        loss, size = run.loss, run.data.size
        found = [Network("autoencoder", partial(_autoencoder, run), partial(_reconstruct, size))]
        if loss.discriminator_weight > 0:
            found.append(Network("discriminator", partial(_discriminator, loss), partial(_judge, size)))
        return found
    raise ValueError(f"task={run.task!r} cannot be planned: its networks are small; use a config of ldm or autoencoder")


def _denoise(config: UNetConfig, size: int, unet: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a denoiser on latents of `size`."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(samples, *shape, device=device)

    told = Conditioning(
        tokens=numbers(_TOKENS, config.context_dim) if config.context_dim is not None else None,
        labels=numbers().long() if config.num_classes is not None else None,
        pooled=numbers(config.pooled_dim) if config.pooled_dim is not None else None,
        sizes=numbers(config.size_count) if config.pooled_dim is not None else None,
    )
    output = unet(numbers(config.in_channels, size, size), numbers(), told)
    return output.float().square().mean()


def _autoencoder(run: AutoencoderRun) -> Trained:
    return trained(build_autoencoder(run.autoencoder), run.loss, run.decoder_only)


def _reconstruct(size: int, player: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of an autoencoder on pictures of `size`, without the perceptual network and the search for codes."""
    assert isinstance(player, Trained)
    model = player.model
    image = torch.zeros(samples, model.config.in_channels, size, size, device=device)
    if isinstance(model, VQAutoencoder):
        return model.decode_codes(model.encode(image).mean).float().square().mean()
    small = size // model.config.factor
    output, posterior = model(image, torch.zeros(samples, model.config.latent_channels, small, small, device=device))
    return output.float().square().mean() + posterior.kl().mean()


def _discriminator(loss: LossConfig) -> PatchDiscriminator:
    return PatchDiscriminator(3, loss.discriminator_width, loss.discriminator_levels)


def _judge(size: int, discriminator: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a discriminator on as many pictures as reconstructions."""
    return discriminator(torch.zeros(2 * samples, 3, size, size, device=device)).float().mean()
