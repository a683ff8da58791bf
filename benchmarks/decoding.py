"""Latents to a picture of 512, 1,024 and 2,048 px by an autoencoder of Stable Diffusion's size, and the memory of it.

On a CPU every decoding is the first one of a process of its own, whose peak is its memory.
Ours goes tile by tile where a picture would take more than 4 GB, as `LatentDiffusion.decode` always does; diffusers'
does with its tiling on. Tiles change a picture, so that their times and memory are shown without being verified.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from benchmarks.measuring import Comparison, Options, Outcome, Side, compare
from benchmarks.networks import autoencoders, family_of, their_sides
from benchmarks.processes import in_processes, named, outcome_here
from ldm import LatentDiffusion
from ldm.engine.choose import best_engine, engine_for
from ldm.families.parts import Defaults, ModelParts
from ldm.generation.vae_memory import VAE_MEMORY, VaeMemory
from ldm.io.tensors.load_weights import on_meta
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP

FACTOR = 8
TILES = "in tiles"


def run(options: Options) -> Iterator[Comparison]:
    """All three sizes."""
    yield from _sizes((512, 1024, 2048), options)


def run_512(options: Options) -> Iterator[Comparison]:
    """512 px alone."""
    yield from _sizes((512,), options)


def _sizes(sizes: tuple[int, ...], options: Options) -> Iterator[Comparison]:
    for size in sizes:
        pixels = size // FACTOR if options.quick else size
        for dtype in options.dtypes:
            sides = decoding_sides(pixels, options, dtype)
            if options.device.type == "cpu":
                sides = in_processes(sides, options.repetitions, options, decode, pixels, options, dtype)
            yield compare(f"decoding {pixels:,} px", sides, options, dtype)


def decode(side: str, pixels: int, options: Options, dtype: torch.dtype) -> Outcome:
    """The first decoding of this process, by one side."""
    return outcome_here(named(decoding_sides(pixels, options, dtype), side).make())


def decoding_sides(pixels: int, options: Options, dtype: torch.dtype) -> list[Side]:
    """diffusers' autoencoder and ours, with the same weights; they are built when a side is made."""
    config = family_of("sd1", options.quick).autoencoder
    draw = torch.Generator().manual_seed(0)
    cells = pixels // FACTOR
    latents = torch.randn(1, config.latent_channels, cells, cells, generator=draw).to(options.device, dtype)
    ours, theirs = autoencoders(config, options, dtype)
    shapes = on_meta(lambda: KLAutoencoder(config)).to(dtype)
    tiling = VaeMemory(shapes, FACTOR, options.device).tiling((cells, cells), VAE_MEMORY)

    def tiled() -> Callable[[], Tensor]:
        autoencoder = theirs()
        autoencoder.enable_tiling()
        return partial(_picture, autoencoder, latents)

    sides = their_sides("diffusers", theirs, _picture, (latents,), options, dtype)
    sides.append(Side("diffusers, eager, tiling on", tiled, unlike=TILES))
    decode = lambda: partial(_model(ours(), options).decode, latents)  # noqa: E731
    return [*sides, Side("ldm", decode, ours=True, unlike=TILES if tiling else "")]


def _model(autoencoder: KLAutoencoder, options: Options) -> LatentDiffusion:
    """A model with this autoencoder, to decode with."""
    format_ = LatentFormat(channels=autoencoder.config.latent_channels, factor=FACTOR)
    unet = UNet(family_of("sd1", quick=True).unet)
    parts = ModelParts(None, unet, autoencoder, format_, DiscreteVP("scaled_linear"), "epsilon", Defaults(512, 512))
    engine = engine_for(best_engine(options.device), options.device)  # as `from_pretrained` takes it
    return LatentDiffusion(parts, device=options.device, engine=engine)


def _picture(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    return (autoencoder.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
