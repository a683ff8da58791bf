"""The shipped configurations have the shape and the size of CompVis' published autoencoders.

Sources: the `ddconfig` of `models/first_stage_models/<name>/config.yaml` in CompVis' latent-diffusion (and of kl-f8 in
its stable-diffusion), copied below. CompVis published weights but no table of parameter counts, so a count is
(a) summed layer by layer from the ddconfig by the formulas below, which share nothing with our classes;
(b) for kl-f8 the published file: the fp32 safetensors of Stable Diffusion's autoencoder hold 83,653,863 numbers;
(c) the size of diffusers' own class of the same shape.
"""

from dataclasses import dataclass

import pytest
import torch
from checkout import CONFIGS

from autoencoder.build import build_autoencoder
from ldm.io.folder.autoencoder import autoencoder_fields
from ldm.training.stages.autoencoder import AutoencoderRun
from ldm.training.stages.config_file import load_run

AUTOENCODERS = CONFIGS / "autoencoder"


@dataclass(frozen=True)
class Published:
    """A ddconfig; all have ch=128, num_res_blocks=2, resolution=256, RGB. `codes` is n_embed, 0 without a codebook."""

    ch_mult: tuple[int, ...]
    z_channels: int
    attn_resolutions: tuple[int, ...] = ()
    codes: int = 0
    disc_weight: float = 0.5


PUBLISHED = {
    "kl-f4": Published((1, 2, 4), 3),
    "kl-f8": Published((1, 2, 4, 4), 4),
    "kl-f16": Published((1, 1, 2, 2, 4), 16, (16,)),
    "vq-f4": Published((1, 2, 4), 3, (), 8192, 0.75),
    "vq-f8": Published((1, 2, 2, 4), 4, (32,), 16384, 0.6),
}
NAMES = pytest.mark.parametrize("name", PUBLISHED)


def conv(i: int, o: int, kernel: int) -> int:
    return i * o * kernel * kernel + o


def res_block(i: int, o: int) -> int:
    return 2 * i + conv(i, o, 3) + 2 * o + conv(o, o, 3) + (conv(i, o, 1) if i != o else 0)


def attention(c: int) -> int:
    return 2 * c + 4 * conv(c, c, 1)


def parameters(model: Published) -> int:
    """Sum over the layers of CompVis' Encoder and Decoder, quant convolutions and codebook."""
    widths = [128 * mult for mult in model.ch_mult]
    resolutions = [256 >> level for level in range(len(widths))]
    deep, z, moments = widths[-1], model.z_channels, model.z_channels * (1 if model.codes else 2)
    middle = 2 * res_block(deep, deep) + attention(deep)
    encoder = conv(3, 128, 3) + middle + 2 * deep + conv(deep, moments, 3)
    decoder = conv(z, deep, 3) + middle + 2 * widths[0] + conv(widths[0], 3, 3)
    before = 128
    for level, width in enumerate(widths):
        encoder += res_block(before, width) + res_block(width, width)
        encoder += 2 * attention(width) * (resolutions[level] in model.attn_resolutions)
        encoder += conv(width, width, 3) * (level < len(widths) - 1)
        before = width
    before = deep
    for level, width in reversed(list(enumerate(widths))):
        decoder += res_block(before, width) + 2 * res_block(width, width)
        decoder += 3 * attention(width) * (resolutions[level] in model.attn_resolutions)
        decoder += conv(width, width, 3) * (level > 0)
        before = width
    return encoder + decoder + conv(moments, moments, 1) + conv(z, z, 1) + model.codes * z


def load(name: str) -> AutoencoderRun:
    run = load_run(AUTOENCODERS / f"{name}.yaml")
    assert isinstance(run, AutoencoderRun)
    return run


def size(name: str) -> int:
    with torch.device("meta"):
        network = build_autoencoder(load(name).autoencoder)
    return sum(p.numel() for p in network.parameters())


def test_formula_gives_the_published_file_of_kl_f8() -> None:
    assert parameters(PUBLISHED["kl-f8"]) == 83_653_863


@NAMES
def test_size_is_that_of_the_published_ddconfig(name: str) -> None:
    assert size(name) == parameters(PUBLISHED[name])


@NAMES
def test_size_is_that_of_diffusers_class(name: str) -> None:
    from diffusers import AutoencoderKL, VQModel

    config = load(name).autoencoder
    fields = autoencoder_fields(config, None)
    kind = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}[fields.pop("_class_name")]
    with torch.device("meta"):
        theirs = kind(**fields)
    assert sum(p.numel() for p in theirs.parameters()) == size(name)


@NAMES
def test_loss_is_the_published_one_but_for_the_perceptual_network(name: str) -> None:
    run, published = load(name), PUBLISHED[name]
    assert run.loss.discriminator_weight == published.disc_weight
    assert run.loss.l1_weight == 1 and run.loss.l2_weight == 0
    if published.codes:
        assert (run.loss.codebook_weight, run.loss.commitment_weight) == (0.25, 1)
    else:
        assert run.loss.kl_weight == 1e-6
    assert run.loop.learning_rate == pytest.approx(4.5e-6 * run.loop.batch_size, rel=1e-3)
    assert run.data.size == 256
