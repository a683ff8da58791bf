"""U-Nets of ours and of diffusers with the same weights."""

import torch

from conditioning.bundle import Conditioning
from ldm.networks.unet import UNet, UNetConfig

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


SD1 = UNetConfig(widths=(8, 16, 16, 16), num_heads=(2, 2, 2, 2), context_dim=12, norm_groups=4)


def diffusers_twin(config: UNetConfig):
    """diffusers' network of the same shape, written out here so that no code of ours takes part."""
    from diffusers import UNet2DConditionModel

    down = tuple(CROSS if depth else PLAIN for depth in config.transformer_layers)
    depths = tuple(depth or 1 for depth in config.transformer_layers)
    vector = {}
    if config.pooled_dim is not None and config.size_embedding_dim is not None:
        vector = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.size_embedding_dim,
            "projection_class_embeddings_input_dim": config.pooled_dim + config.size_count * config.size_embedding_dim,
        }
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        down_block_types=down,
        mid_block_type="UNetMidBlock2DCrossAttn" if config.mid_transformer_layers else "UNetMidBlock2D",
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
        block_out_channels=config.widths,
        layers_per_block=config.blocks_per_level,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.context_dim or 12,
        transformer_layers_per_block=depths,
        attention_head_dim=config.num_heads,
        use_linear_projection=config.linear_projection,
        num_class_embeds=config.num_classes,
        only_cross_attention=config.only_cross_attention or False,
        **vector,
    )


def twins(config: UNetConfig):
    torch.manual_seed(0)
    theirs, ours = diffusers_twin(config), UNet(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(config: UNetConfig, size: tuple[int, int] = (16, 16), batch: int = 3):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, config.in_channels, *size, generator=draw)
    time = torch.linspace(3, 999, batch)
    conditioning = Conditioning(
        tokens=torch.randn(batch, 5, config.context_dim or 12, generator=draw),
        pooled=torch.randn(batch, config.pooled_dim, generator=draw) if config.pooled_dim else None,
        labels=torch.arange(batch) % 11 if config.num_classes else None,
        sizes=torch.randint(0, 1024, (batch, config.size_count), generator=draw).float() if config.pooled_dim else None,
    )
    return x, time, conditioning


def run_twin(theirs, x, time, conditioning, **more):
    added = (
        {"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes} if conditioning.sizes is not None else None
    )
    return theirs(
        x,
        time,
        conditioning.tokens,
        class_labels=conditioning.labels,
        added_cond_kwargs=added,
        encoder_attention_mask=conditioning.mask,
        **more,
    ).sample
