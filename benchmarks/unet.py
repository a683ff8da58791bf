"""One step of the denoising network with guidance (two rows, full prompts): Stable Diffusion 1.5's and XL's size."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Options, Outcome, Side, compare, fallbacks_refused
from benchmarks.networks import family_of, their_sides, unets, weights_of
from benchmarks.processes import in_rounds, named, warm_outcome
from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.engine.choose import engine_for
from ldm.io.locate import find_model
from ldm.networks.unet import UNet, UNetConfig

SIZES = {"emoji": "emoji, 256 px", "sd1": "SD 1.5's size, 512 px", "sdxl": "SDXL's size, 1024 px"}
ROWS, PROMPT_LENGTH = 2, 77


def run_sd1(options: Options) -> Iterator[Comparison]:
    """A step of Stable Diffusion 1.5's size."""
    yield from _steps("sd1", options)


def run_sdxl(options: Options) -> Iterator[Comparison]:
    """A step of Stable Diffusion XL's size."""
    yield from _steps("sdxl", options)


def run_emoji(options: Options) -> Iterator[Comparison]:
    """A step of the shipped model."""
    yield from _steps("emoji", options)


def _steps(name: str, options: Options) -> Iterator[Comparison]:
    for dtype in options.dtypes:
        config = _pair(name, options, dtype)[0]
        weights = weights_of(lambda config=config: UNet(config), dtype)
        sides = in_rounds(step_sides(name, options, dtype), weights, options, step, name, options, dtype)
        yield compare(f"a step of {SIZES[name]}", sides, options, dtype)


def step(side: str, name: str, options: Options, dtype: torch.dtype) -> Outcome:
    """Warm steps of a model by one side, in this process."""
    return warm_outcome(named(step_sides(name, options, dtype), side), options)


def step_sides(name: str, options: Options, dtype: torch.dtype) -> list[Side]:
    """diffusers' network and ours by each engine, which are built when a side is made.

    Args:
        name: `emoji`, or a published family.
        options: device and engines.
        dtype: of the weights and inputs.
    """
    config, cells, ours, theirs = _pair(name, options, dtype)
    x, time, conditioning = step_inputs(config, cells, options.device, dtype)
    inputs = (x, time, conditioning.tokens)
    if conditioning.pooled is not None and conditioning.sizes is not None:
        inputs += (conditioning.pooled, conditioning.sizes)
    sides = their_sides("diffusers", theirs, _their_step, inputs, options, dtype)
    for engine in options.engines:
        make = lambda engine=engine: _our_step(engine, ours(), options.device, x, time, conditioning)  # noqa: E731
        sides.append(Side(f"ldm, {engine}", make, ours=True))
    return sides


def _pair(
    name: str, options: Options, dtype: torch.dtype
) -> tuple[UNetConfig, int, Callable[[], UNet], Callable[[], nn.Module]]:
    """(config, height and width of the latents, what makes our network, what makes diffusers' around its weights)."""
    if name != "emoji":
        family = family_of(name, options.quick)
        return family.unet, family.size // 8, *unets(family.unet, options, dtype)

    def theirs() -> nn.Module:
        from diffusers import UNet2DConditionModel

        network = UNet2DConditionModel.from_pretrained(find_model("emoji") / "unet", torch_dtype=dtype)
        return network.to(options.device).eval()

    unet = LatentDiffusion.from_pretrained("emoji", dtype=dtype, device=options.device, engine="eager").parts.unet
    return unet.config, 16, lambda: unet, theirs


def _our_step(engine: str, unet: UNet, device: torch.device, x: Tensor, time: Tensor, conditioning: Conditioning):
    with fallbacks_refused():
        run = engine_for(engine, device).network(unet)
        with torch.inference_mode():
            run(x, time, conditioning)
    return lambda unet=unet: run(x, time, conditioning)  # an engine does not keep the network


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
