"""One step of the denoising network with guidance (two rows, full prompts): Stable Diffusion 1.5's and XL's size."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Options, Side, compare, fallbacks_refused
from benchmarks.networks import family_of, their_sides, unets
from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.engine.choose import engine_for
from ldm.io.locate import find_model
from ldm.networks.unet import UNet, UNetConfig

SIZES = {"sd1": "SD 1.5's size, 512 px", "sdxl": "SDXL's size, 1024 px"}
ROWS, PROMPT_LENGTH = 2, 77


def run_sd1(options: Options) -> Iterator[Comparison]:
    """A step of Stable Diffusion 1.5's size."""
    yield from _published("sd1", options)


def run_sdxl(options: Options) -> Iterator[Comparison]:
    """A step of Stable Diffusion XL's size."""
    yield from _published("sdxl", options)


def run_emoji(options: Options) -> Iterator[Comparison]:
    """A step of the shipped model."""
    from diffusers import UNet2DConditionModel

    def theirs() -> nn.Module:
        network = UNet2DConditionModel.from_pretrained(find_model("emoji") / "unet", torch_dtype=dtype)
        return network.to(options.device).eval()

    for dtype in options.dtypes:
        model = LatentDiffusion.from_pretrained("emoji", dtype=dtype, device=options.device, engine="eager")
        sides = step_sides(model.parts.unet, theirs, 16, options, dtype)
        yield compare("a step of emoji, 256 px", sides, options, dtype)


def _published(name: str, options: Options) -> Iterator[Comparison]:
    family = family_of(name, options.quick)
    for dtype in options.dtypes:
        ours, theirs = unets(family.unet, options, dtype)
        sides = step_sides(ours, theirs, family.size // 8, options, dtype)
        yield compare(f"a step of {SIZES[name]}", sides, options, dtype)


def step_sides(ours: UNet, theirs, cells: int, options: Options, dtype: torch.dtype) -> list[Side]:
    """diffusers' network, which `theirs` makes, and ours by each engine.

    Args:
        ours: the network.
        theirs: makes diffusers' with the same weights.
        cells: height and width of the latents.
        options: device and engines.
        dtype: of the weights and inputs.
    """
    x, time, conditioning = step_inputs(ours.config, cells, options.device, dtype)
    inputs = (x, time, conditioning.tokens)
    if conditioning.pooled is not None and conditioning.sizes is not None:
        inputs += (conditioning.pooled, conditioning.sizes)
    sides = their_sides("diffusers", theirs, _their_step, inputs, options, dtype)
    for engine in options.engines:
        make = lambda engine=engine: _our_step(engine, ours, options.device, x, time, conditioning)  # noqa: E731
        sides.append(Side(f"ldm, {engine}", make, ours=True))
    return sides


def _our_step(engine: str, unet: UNet, device: torch.device, x: Tensor, time: Tensor, conditioning: Conditioning):
    with fallbacks_refused():
        run = engine_for(engine, device).network(unet)
        with torch.inference_mode():
            run(x, time, conditioning)
    return lambda: run(x, time, conditioning)


def _their_step(
    unet: nn.Module, x: Tensor, time: Tensor, tokens: Tensor, pooled: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
    return unet(x, time, tokens, added_cond_kwargs=added, return_dict=False)[0]


def step_inputs(
    config: UNetConfig, cells: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Conditioning]:
    """Random latents (2, C, cells, cells), times (2,) and conditioning of one step with guidance."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, config.in_channels, cells, cells, generator=draw)
    conditioning = Conditioning(
        tokens=torch.randn(ROWS, PROMPT_LENGTH, config.context_dim or 1, generator=draw),
        pooled=torch.randn(ROWS, config.pooled_dim, generator=draw) if config.pooled_dim else None,
        sizes=torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * ROWS) if config.pooled_dim else None,
    )
    return x.to(device, dtype), torch.full((ROWS,), 500.0, device=device), conditioning.to(device, dtype)
