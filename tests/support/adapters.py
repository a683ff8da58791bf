"""Random adapters for tiny networks: one delta for every layer that can have one."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.adapters.lora.deltas import Decomposed, Delta, Hadamard, Kronecker, LowRank, Whole
from ldm.adapters.lora.layers import Layer, adaptable_layers
from ldm.networks.unet import UNet, UNetConfig

TINY = UNetConfig(
    widths=(8, 16),
    blocks_per_level=1,
    transformer_layers=(1, 0),
    mid_transformer_layers=1,
    num_heads=(2, 2),
    context_dim=16,
    norm_groups=4,
)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tiny_unet(dtype: torch.dtype = torch.float32, config: UNetConfig = TINY) -> UNet:
    torch.manual_seed(0)
    return UNet(config).to(dtype).requires_grad_(False)


def snapshot(unet: UNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items()}


def same(unet: UNet, state: dict[str, Tensor]) -> bool:
    """Bit for bit: -0 is not 0."""
    bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
    return all(torch.equal(v.view(bits[v.dtype]), state[k].view(bits[v.dtype])) for k, v in unet.state_dict().items())


def tiny_text(projection: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
    )
    torch.manual_seed(1)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).requires_grad_(False)


def low_rank(shape: tuple[int, ...], generator: torch.Generator, rank: int = 2, scale: float = 0.5) -> LowRank:
    """A random LoRA or LoCon for a weight of `shape`."""
    down = torch.randn(rank, *shape[1:], generator=generator) * 0.2
    up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator) * 0.2
    return LowRank(down, up, scale=scale)


def low_ranks(
    layers: Mapping[str, Layer], seed: int = 0, rank: int = 2, scale: float = 0.5, only: Iterable[str] | None = None
) -> dict[str, Delta]:
    generator = torch.Generator().manual_seed(seed)
    chosen = layers if only is None else only
    return {name: low_rank(tuple(layers[name].weight.shape), generator, rank, scale) for name in chosen}


def unet_layers(unet: UNet) -> dict[str, Layer]:
    return adaptable_layers({"unet": unet})


def mixed(seed: int = 0) -> dict[str, Delta]:
    """Every kind of delta, on layers of the tiny network that suit it."""
    g = torch.Generator().manual_seed(seed)
    attention = "unet.mid_block.attentions.0.transformer_blocks.0"

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) * 0.3

    return {
        f"{attention}.attn1.to_q": LowRank(random(2, 16), random(16, 2), scale=1.5),
        "unet.conv_in": LowRank(random(2, 4, 3, 3), random(8, 2, 1, 1), scale=0.25),
        "unet.mid_block.resnets.0.conv1": LowRank(
            random(2, 16, 1, 1), random(16, 2, 1, 1), random(2, 2, 3, 3), scale=0.5
        ),
        f"{attention}.attn1.to_k": Hadamard(random(16, 2), random(2, 16), random(16, 2), random(2, 16), scale=2.0),
        "unet.mid_block.resnets.0.conv2": Hadamard(
            random(2, 16),
            random(2, 16),
            random(2, 16),
            random(2, 16),
            random(2, 2, 3, 3),
            random(2, 2, 3, 3),
            scale=0.5,
        ),
        "unet.mid_block.resnets.1.conv1": Hadamard(
            random(16, 2), random(2, 144), random(16, 2), random(2, 144), scale=0.5
        ),
        f"{attention}.attn1.to_v": Kronecker(w1=random(4, 2), w2=random(4, 8)),
        f"{attention}.attn2.to_q": Kronecker(
            w1_a=random(4, 2), w1_b=random(2, 4), w2_a=random(4, 2), w2_b=random(2, 4), scale=0.5
        ),
        "unet.mid_block.resnets.1.conv2": Kronecker(
            w1=random(4, 4), w2_a=random(2, 4), w2_b=random(2, 4), t2=random(2, 2, 3, 3), scale=0.5
        ),
        "unet.up_blocks.0.resnets.0.conv2": Kronecker(w1=random(4, 4), w2=random(4, 4, 3, 3)),
        "unet.up_blocks.0.resnets.1.conv2": Kronecker(
            w1=random(4, 4), w2_a=random(4, 2), w2_b=random(2, 36), scale=0.5
        ),
    }


def whole_and_decomposed(seed: int = 0) -> dict[str, Delta]:
    """Changes of whole weights, biases and norms, and DoRAs with magnitudes of outputs and of inputs."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g) * 0.3

    attention = "unet.mid_block.attentions.0.transformer_blocks.0"
    convolution = "unet.mid_block.resnets.0.conv1"
    query = LowRank(random(2, 16), random(16, 2), scale=1.5)
    key = Hadamard(random(16, 2), random(2, 16), random(16, 2), random(2, 16), scale=2.0)
    kernel = LowRank(random(2, 16, 3, 3), random(16, 2, 1, 1), scale=0.25)
    return {
        f"{attention}.attn1.to_q": Decomposed(query, random(16, 1).exp()),
        f"{attention}.attn1.to_k": Decomposed(key, random(1, 16).exp()),
        convolution: Decomposed(kernel, random(1, 16, 1, 1).exp()),
        "unet.conv_in": Decomposed(LowRank(random(2, 4, 3, 3), random(8, 2, 1, 1)), random(8, 1, 1, 1).exp()),
        "unet.conv_in.bias": Whole(random(8)),
        f"{attention}.attn1.to_v": Whole(random(16, 16)),
        "unet.mid_block.resnets.1.conv2": Whole(random(16, 16, 3, 3)),
        f"{attention}.norm1": Whole(random(16)),
        f"{attention}.norm1.bias": Whole(random(16)),
        "unet.mid_block.resnets.0.norm1": Whole(random(16)),
    }


STEM = "lora_unet_mid_block_attentions_0_proj_in"
PROJ = "unet.mid_block.attentions.0.proj_in"


def kohya(path: Path, change: dict[str, Tensor | None] | None = None) -> Path:
    """A good little kohya file, with some keys changed or left out."""
    tensors: dict[str, Tensor | None] = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 16, 1, 1),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(16, 2, 1, 1),
        "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.0),
    }
    tensors |= change or {}
    save_file({key: value for key, value in tensors.items() if value is not None}, path)
    return path
