"""The networks that a run trains, built without weights and data, each with a pass of the right shapes through it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from autoencoder.build import build_autoencoder
from autoencoder.config import LossConfig
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.trainable import Trained, trained
from autoencoder.vq import VQAutoencoder
from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import ClipText
from conditioning.training.contrastive import ClipConfig, build_towers
from conditioning.training.image_tokens import ImageTokenConfig, ImageTokenObjective, ImageTokenTower
from conditioning.training.infonce import info_nce, teacher_distance, word_loss
from conditioning.training.teacher import PACKAGE_WIDTH
from conditioning.training.towers import ClipTowers
from ldm.io.folder.load import load_text
from ldm.io.locate import resolve_model
from ldm.networks.unet import UNet, UNetConfig
from ldm.networks.upscaler.config import UpscalerLossConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.training.estimate.flops_and_activations import Pass
from ldm.training.stages.table import AutoencoderRun, ClipRun, ImageTokenRun, LatentDiffusionRun, Run, UpscalerRun

_TOKENS = 77  # that CLIP reads
_CLIP_NOTE = (
    "how long texts are, and how many tokens the vocabulary gets, is known when the data are read; counted are the"
    " most, clip.context_length and clip.vocab_size"
)


@dataclass(frozen=True)
class Network:
    """A module in training: how it is built, a pass of samples through it, and what is not known of it."""

    name: str
    build: Callable[[], nn.Module]
    run: Pass
    note: str = ""


def networks(run: Run, factor: int = 8) -> list[Network]:
    """The trained modules of a run in the order in which they step.

    factor: pixels for a latent cell along each axis, of the autoencoder that a denoiser works with.

    Raises:
        FileNotFoundError, ValueError: see `image_token_objective`.
    """
    if isinstance(run, LatentDiffusionRun):
        size = run.data.size // factor
        return [Network("unet", partial(UNet, run.unet), partial(_denoise, run.unet, size))]
    if isinstance(run, AutoencoderRun):
        found = [Network("autoencoder", partial(_autoencoder, run), partial(_reconstruct, run.data.size))]
        return found + _discriminators(run.loss, run.autoencoder.in_channels, run.data.size)
    if isinstance(run, UpscalerRun):
        low, high = run.data.crop, run.data.crop * run.upscaler.factor
        found = [Network("upscaler", partial(Upscaler, run.upscaler), partial(_upscale, low))]
        return found + _discriminators(run.loss, 3, high)
    if isinstance(run, ClipRun):
        return [Network("clip", partial(_towers, run.clip), partial(_compare, run.clip), _CLIP_NOTE)]
    tower = image_token_objective(run).trained_modules["text"].to("meta")
    return [Network("text", partial(copy.deepcopy, tower), partial(_image_tokens, run.image_tokens))]


def image_token_objective(run: ImageTokenRun, sentences: Sequence[str] = ()) -> ImageTokenObjective:
    """The text tower that learns to sketch, with its loss, from the folders that `run` names.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: a text encoder has several towers; see also `ImageTokenObjective`.
    """
    start = _text_tower("initial", run.initial) if run.initial else None
    return ImageTokenObjective(_text_tower("text", run.text), run.image_tokens, sentences, start)


def _text_tower(setting: str, source: str) -> ClipText:
    text = load_text(resolve_model(setting, source))
    if not isinstance(text, ClipText):
        raise ValueError(
            f"{setting}={source} has {len(text.towers)} text towers, and one is trained; name a model with one"
        )
    return text


def _denoise(config: UNetConfig, size: int, unet: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a denoiser on latents of `size`."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(samples, *shape, device=device)

    conditioning = Conditioning(
        tokens=numbers(_TOKENS, config.context_dim) if config.context_dim is not None else None,
        labels=numbers().long() if config.num_classes is not None else None,
        pooled=numbers(config.pooled_dim) if config.pooled_dim is not None else None,
        sizes=numbers(config.size_count) if config.pooled_dim is not None else None,
    )
    output = unet(numbers(config.in_channels, size, size), numbers(), conditioning)
    return output.float().square().mean()


def _autoencoder(run: AutoencoderRun) -> Trained:
    return trained(build_autoencoder(run.autoencoder), run.loss, run.decoder_only)


def _reconstruct(size: int, module_name: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of an autoencoder on pictures of `size`, without the perceptual network and the search for codes."""
    assert isinstance(module_name, Trained)
    model = module_name.model
    image = torch.zeros(samples, model.config.in_channels, size, size, device=device)
    if isinstance(model, VQAutoencoder):
        return model.decode_codes(model.encode(image).mean).float().square().mean()
    small = size // model.config.factor
    output, posterior = model(image, torch.zeros(samples, model.config.latent_channels, small, small, device=device))
    return output.float().square().mean() + posterior.kl().mean()


def _discriminators(loss: LossConfig | UpscalerLossConfig, channels: int, size: int) -> list[Network]:
    """The discriminator of pictures of `size`, if a recipe has one."""
    if loss.discriminator_weight == 0:
        return []
    build = partial(PatchDiscriminator, channels, loss.discriminator_width, loss.discriminator_levels)
    return [Network("discriminator", build, partial(_judge, channels, size))]


def _judge(channels: int, size: int, discriminator: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a discriminator on as many pictures as reconstructions."""
    return discriminator(torch.zeros(2 * samples, channels, size, size, device=device)).float().mean()


def _upscale(size: int, upscaler: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of an upscaler on crops of `size`, without the perceptual network."""
    return upscaler(torch.zeros(samples, 3, size, size, device=device)).abs().mean()


def _towers(config: ClipConfig) -> ClipTowers:
    end = config.vocab_size - 1
    teacher_width = PACKAGE_WIDTH if config.teacher_weight > 0 else None
    return build_towers(config, config.vocab_size, {"bos": end - 1, "eos": end, "pad": end}, teacher_width)


def _compare(config: ClipConfig, towers: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of CLIP's towers on as many texts as they may get, each at its full length."""
    assert isinstance(towers, ClipTowers)
    compared = samples + round(samples * config.hard_negatives)
    texts = compared + round(samples * config.sentences)
    ids = torch.zeros(texts, config.context_length, dtype=torch.long, device=device)
    states = towers.clip.text_model(input_ids=ids).last_hidden_state[:, :3]
    patches = (config.image_size // config.patch_size) ** 2
    seen = max(1, round(config.patch_keep * patches))
    keep = torch.zeros(samples, seen, dtype=torch.long, device=device) if seen < patches else None
    pixels = torch.zeros(samples, 3, config.image_size, config.image_size, device=device)
    output = towers.heads(states, pixels, keep)
    with torch.autocast("cpu", enabled=False):  # of which traces are
        loss, _ = info_nce(output.image, output.text[:compared], output.log_scale.float().exp())
        bags = torch.zeros(texts, config.vocab_size, device=device)
        loss = loss + word_loss(output.words, bags, torch.zeros_like(ids[:, 0]))
        if output.sentence is not None:
            teacher = torch.zeros(texts, PACKAGE_WIDTH, device=device)
            loss = loss + teacher_distance(output.sentence, teacher, torch.zeros_like(teacher[:, 0]).bool())
    return loss


def _image_tokens(config: ImageTokenConfig, tower: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a sketching text tower, without the tower that it was."""
    assert isinstance(tower, ImageTokenTower)
    texts = samples + round(samples * config.sentences)
    length = tower.model.config.max_position_embeddings
    states, sketches = tower(torch.zeros(texts, length, dtype=torch.long, device=device))
    return states[:, : -(config.cells**2)].float().square().mean() + sketches[:samples].float().square().mean()
