"""Networks of the published sizes with random weights, ours and the same of diffusers or transformers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from zlib import crc32

import torch
from torch import Tensor, nn

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from benchmarks.measuring import Options, Side
from conditioning.clip.transformer import ClipTextConfig, ClipTextModel
from ldm.engine.openvino import core
from ldm.families.family import Family, Tower
from ldm.families.stable_diffusion import FAMILIES
from ldm.io.folder.autoencoder import autoencoder_fields
from ldm.io.folder.unet import unet_fields
from ldm.io.tensors.load_weights import on_meta
from ldm.networks.unet import UNet, UNetConfig

_TINY = {"widths": (8, 16, 16, 16), "norm_groups": 4}
_BLOCK = 1_000_003
"""How many random numbers networks are made of, again and again: a prime, so that no two rows are alike."""

Network = TypeVar("Network", bound=nn.Module)


def family_of(name: str, quick: bool) -> Family:
    """A published family, or one like it with a few thousand weights."""
    family = FAMILIES[name]
    if not quick:
        return family
    levels = len(family.unet.widths)
    unet = replace(
        family.unet,
        widths=_TINY["widths"][:levels],
        norm_groups=_TINY["norm_groups"],
        num_heads=(2,) * levels,
        context_dim=32 * len(family.towers),
        pooled_dim=family.unet.pooled_dim and 32,
        size_embedding_dim=family.unet.size_embedding_dim and 8,
        transformer_layers=tuple(min(each, 1) for each in family.unet.transformer_layers),
        mid_transformer_layers=1,
    )
    return replace(family, unet=unet, autoencoder=AutoencoderConfig(**_TINY), size=64, size_v=64)


def weights_of(build: Callable[[], nn.Module], dtype: torch.dtype) -> int:
    """Bytes of a network's weights, which are not made."""
    return sum(each.numel() for each in on_meta(build).parameters()) * dtype.itemsize


def random_network(build: Callable[[], Network], device: torch.device, dtype: torch.dtype) -> Network:
    """A network with random numbers that depend on the names of its weights alone, at the speed of copying.

    They are as large as PyTorch begins with: up to 1 / sqrt(inputs of a unit) in weights, norms near 1.
    """
    network = on_meta(build).to(dtype).to_empty(device=device).requires_grad_(False).eval()
    block = torch.rand(_BLOCK, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).repeat(2).to(device)
    for name, value in network.state_dict().items():
        begin, flat = crc32(name.encode()) % _BLOCK, value.view(-1)
        bound = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
        numbers = block[begin : begin + min(len(flat), _BLOCK)] * bound + (value.ndim == 1 and name.endswith("weight"))
        for part in flat.split(_BLOCK):
            part.copy_(numbers[: len(part)])
    return network


def unets(
    config: UNetConfig, options: Options, dtype: torch.dtype
) -> tuple[Callable[[], UNet], Callable[[], nn.Module]]:
    """What makes our U-Net, and diffusers' with the same numbers."""

    def theirs() -> nn.Module:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_config(unet_fields(config, None))

    return (
        partial(random_network, lambda: UNet(config), options.device, dtype),
        partial(random_network, theirs, options.device, dtype),
    )


def autoencoders(
    config: AutoencoderConfig, options: Options, dtype: torch.dtype
) -> tuple[Callable[[], KLAutoencoder], Callable[[], nn.Module]]:
    """What makes our autoencoder, and diffusers' with the same numbers."""

    def theirs() -> nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_config({**autoencoder_fields(config, 1.0), "sample_size": 512})

    return (
        partial(random_network, lambda: KLAutoencoder(config), options.device, dtype),
        partial(random_network, theirs, options.device, dtype),
    )


def text_config(tower: Tower, quick: bool) -> ClipTextConfig:
    """CLIP-L's sizes, or those of OpenCLIP's bigG (with a projection) or H (without its last layer)."""
    width, layers = (1280, 32) if tower.projected else (1024, 23) if tower.penultimate else (768, 12)
    if quick:
        width, layers = 32, 2
    return ClipTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // tower.head_width, 1),
        projection_dim=width,
        hidden_act=tower.activation,
    )


def text_towers(
    tower: Tower, options: Options, dtype: torch.dtype
) -> tuple[Callable[[], ClipTextModel], Callable[[], nn.Module]]:
    """What makes our CLIP text tower, and transformers' with the same numbers."""
    config = text_config(tower, options.quick)
    ours = partial(random_network, lambda: ClipTextModel(config, tower.projected), options.device, dtype)

    def theirs() -> nn.Module:
        twin = transformers_tower(config, tower.projected)
        prefix = "text_model." if any(name.startswith("text_model.") for name in twin.state_dict()) else ""
        twin.load_state_dict({_with(prefix, name): value for name, value in ours().state_dict().items()})
        return twin.requires_grad_(False).eval().to(options.device, dtype)

    return ours, theirs


def transformers_tower(config: ClipTextConfig, projected: bool) -> Any:
    """transformers' network of a config of ours."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    fields = CLIPTextConfig(**{name: value for name, value in config.to_fields(projected).items() if name != "dtype"})
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(fields)


def _with(prefix: str, name: str) -> str:
    return name if name.startswith("text_projection") else prefix + name


class Wrapped(nn.Module):
    """A network of another library as a function of tensors that gives one tensor, which compilers and OpenVINO take.

    Args:
        network: theirs.
        call: `(network, *inputs) -> output`.
    """

    def __init__(self, network: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self._call = network, call

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output."""
        return self._call(self.network, *inputs)


def their_sides(
    library: str,
    make: Callable[[], nn.Module],
    call: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    options: Options,
    dtype: torch.dtype,
) -> list[Side]:
    """A network of diffusers or transformers: eager in both layouts, compiled with frozen weights, and by OpenVINO.

    Args:
        library: whose it is.
        make: builds one that may be changed.
        call: `(network, *inputs) -> output`.
        inputs: what it is called with each time.
        options: compiled ones only on request; OpenVINO on CPUs alone.
        dtype: in which it computes.
    """

    def plain() -> Callable[[], Tensor]:
        theirs = make()
        return lambda: call(theirs, *inputs)

    def channels_last() -> Callable[[], Tensor]:
        theirs = make().to(memory_format=torch.channels_last)
        moved = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        return lambda: call(theirs, *moved)

    sides = [Side(f"{library}, eager", plain, baseline=True)]
    if any(x.ndim == 4 for x in inputs):
        sides.append(Side(f"{library}, eager, channels_last", channels_last, baseline=True))
    if options.compiled:
        compiled = Side(f"{library}, compiled and frozen", lambda: _compiled(Wrapped(make(), call), inputs))
        sides.append(compiled)
    if options.device.type == "cpu":
        sides.append(Side("OpenVINO", lambda: _by_openvino(Wrapped(make(), call), inputs, dtype)))
    return sides


def _compiled(network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    import torch._inductor.config as inductor

    compiled = torch.compile(network)

    def run() -> Tensor:
        with inductor.patch(freezing=True), torch.no_grad():
            return compiled(*inputs)

    run()  # which compiles
    return run


def _by_openvino(network: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Callable[[], Tensor]:
    import openvino

    names = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
    settings = {"INFERENCE_PRECISION_HINT": names[dtype], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    inputs = tuple(x.float() if x.is_floating_point() else x for x in inputs)
    model = openvino.convert_model(network.float(), example_input=inputs)
    compiled = core().compile_model(model, "CPU", settings)
    arrays = [x.numpy() for x in inputs]
    return lambda: torch.from_numpy(compiled(arrays)[0])
