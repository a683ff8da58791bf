"""The denoising U-Net of latent diffusion (Rombach et al. 2022), with diffusers' parameter names."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels import GroupNorm
from conditioning.bundle import Conditioning
from ldm.networks.embeddings import VectorMLP, sinusoid
from ldm.networks.options import PLAIN, NetworkOptions
from ldm.networks.unet.blocks import BlockInputs, ResnetBlock, SpatialTransformer, TransformerBlock
from ldm.networks.unet.config import UNetConfig
from ldm.networks.unet.resample import Downsample, Upsample


class UNetLevel(nn.Module):
    """Residual blocks of one resolution, each with its transformer if the level has them, and the resampling."""

    def __init__(
        self, config: UNetConfig, level: int, inputs: list[int], depth: int, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        width = config.widths[level]
        self.resnets = nn.ModuleList(ResnetBlock(i, width, config.time_dim, config.norm_groups) for i in inputs)
        only_cross = bool(config.only_cross_attention) and config.only_cross_attention[level]
        self.attentions = transformers(config, level, depth, len(inputs), only_cross)
        self.downsamplers = nn.ModuleList([Downsample(width)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if up else [])

    def block(self, i: int, x: Tensor, inputs: BlockInputs) -> Tensor:
        """Residual block i and its transformer. x: (B, C, H, W); returns (B, C', H, W)."""
        x = self.resnets[i](x, inputs)
        return self.attentions[i](x, inputs) if len(self.attentions) else x

    def block_up(self, i: int, x: Tensor, skips: list[Tensor], inputs: BlockInputs) -> Tensor:
        """Block i on the way up, which takes the last skip connection; after the level's last one, its upsampling."""
        x = self.block(i, torch.cat([x, skips.pop()], dim=1), inputs)
        for upsample in self.upsamplers if i == len(self.resnets) - 1 else ():
            x = upsample(x, skips[-1].shape[2:])
        return x


class Middle(nn.Module):
    """Residual block, transformer, residual block at the coarsest resolution; one block without a transformer."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, depth = config.widths[-1], config.mid_transformer_layers
        self.resnets = nn.ModuleList(
            ResnetBlock(width, width, config.time_dim, config.norm_groups) for _ in range(2 if depth else 1)
        )
        self.attentions = transformers(config, len(config.widths) - 1, depth, 1)

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """x: (B, C, H, W); returns the same shape."""
        x = self.resnets[0](x, inputs)
        for transformer, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            x = resnet(transformer(x, inputs), inputs)
        return x


def transformers(config: UNetConfig, level: int, depth: int, count: int, only_cross: bool = False) -> nn.ModuleList:
    """`count` transformers of `depth` blocks for a level; an empty list at depth 0."""
    if depth == 0 or config.context_dim is None:
        return nn.ModuleList()
    return nn.ModuleList(
        SpatialTransformer(
            config.widths[level],
            config.num_heads[level],
            depth,
            config.context_dim,
            config.norm_groups,
            config.linear_projection,
            only_cross,
        )
        for _ in range(count)
    )


class UNet(nn.Module):
    """Predicts noise, velocity or picture from a noisy latent, a time and a `Conditioning`.

    The state dict has exactly the keys and shapes of `diffusers.UNet2DConditionModel` of the same configuration.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, depths, blocks = config.widths, config.transformer_layers, config.blocks_per_level
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = VectorMLP(widths[0], config.time_dim)
        class_dim = config.context_dim if config.class_tokens and config.context_dim else config.time_dim
        self.class_embedding = nn.Embedding(config.num_classes, class_dim) if config.num_classes else None
        self.add_embedding = None
        if config.vector_dim is not None:
            self.add_embedding = VectorMLP(config.vector_dim, config.time_dim)

        skips = [widths[0]]
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = [skips[-1]] + [width] * (blocks - 1)
            self.down_blocks.append(UNetLevel(config, level, inputs, depths[level], down=level < last))
            skips += [width] * (blocks + (level < last))
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for level in reversed(range(len(widths))):
            inputs = [below + skips.pop()] + [widths[level] + skips.pop() for _ in range(blocks)]
            self.up_blocks.append(UNetLevel(config, level, inputs, depths[level], up=level > 0))
            below = widths[level]
        self.conv_norm_out = GroupNorm(config.norm_groups, widths[0], eps=1e-5, silu=True)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        for name, block in self._transformer_blocks():
            block.attn1.name, block.attn2.name = f"{name}.attn1", f"{name}.attn2"

    @property
    def in_channels(self) -> int:
        """See `Backbone`."""
        return self.config.in_channels

    @property
    def out_channels(self) -> int:
        """See `Backbone`."""
        return self.config.out_channels

    @property
    def patch(self) -> int:
        """See `Backbone`: any size will do, uneven feature maps are rounded up."""
        return 1

    @property
    def needs(self) -> frozenset[str]:
        """See `Backbone`."""
        return self.config.needs

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """See `Backbone`."""
        return tuple(block.attn1.name for _, block in self._transformer_blocks() if not block.only_cross)

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """See `Backbone`: residual blocks and transformer blocks."""
        resnets = [block for _, part in self._parts() for block in part.resnets]
        return [*resnets, *(block for _, block in self._transformer_blocks())]

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """See `Backbone`."""
        last = len(self.config.widths) - 1
        levels = {f"down_blocks.{i}": i for i in range(last)} | {f"up_blocks.{last - i}": i for i in range(last)}
        for _ in range(levels.get(".".join(layer.split(".")[:2]), last)):
            height, width = -(-height // 2), -(-width // 2)
        return height, width

    def _parts(self) -> Iterator[tuple[str, "UNetLevel | Middle"]]:
        """All that has residual blocks and transformers, by name."""
        for i, level in enumerate(cast(Iterable[UNetLevel], self.down_blocks)):
            yield f"down_blocks.{i}", level
        yield "mid_block", self.mid_block
        for i, level in enumerate(cast(Iterable[UNetLevel], self.up_blocks)):
            yield f"up_blocks.{i}", level

    def _transformer_blocks(self) -> Iterator[tuple[str, TransformerBlock]]:
        for name, part in self._parts():
            for i, transformer in enumerate(cast(Iterable[SpatialTransformer], part.attentions)):
                for j, block in enumerate(cast(Iterable[TransformerBlock], transformer.transformer_blocks)):
                    yield f"{name}.attentions.{i}.transformer_blocks.{j}", block

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        options: NetworkOptions = PLAIN,
    ) -> Tensor:
        """One evaluation of the network.

        All layers keep the memory layout of x. On CPUs channels_last is faster from batches of about 16 on (training),
        the plain layout below (drawing one picture).

        Args:
            x: (B, C, h, w), without the channels of `conditioning.concat`, which are appended here.
            time: (B,) or scalar, in the units that the model was trained with.
            conditioning: with the fields of `needs`.
            options: see `NetworkOptions`.

        Returns:
            (B, out_channels, h, w) in the dtype of the last convolution.

        Raises:
            ValueError: the conditioning lacks a field that the network needs, or the channels do not add up.
        """
        conditioning = conditioning or Conditioning()
        residuals, hook, reuse = options.residuals, options.hook, options.reuse
        self._check(x, conditioning)
        if conditioning.concat is not None:
            x = torch.cat([x, conditioning.concat.to(x.dtype)], dim=1)
        x = self.conv_in(x)
        tokens = self._tokens(conditioning)
        tokens = None if tokens is None else tokens.to(x.dtype)  # once, not in every layer
        inputs = BlockInputs(F.silu(self.vector(time, conditioning, x.shape[0])), tokens, conditioning.mask, hook)
        before, skips, down, up = x, [x], self._down(inputs), self._up(inputs)
        depth = 0 if reuse is None else reuse.depth

        def deep(x: Tensor) -> Tensor:
            for step in down[depth:]:
                x = step(x)
                skips.append(x)
            x = self.mid_block(x, inputs)
            if residuals is not None:
                skips[:] = [skip + extra.to(skip.dtype) for skip, extra in zip(skips, residuals.down, strict=True)]
                x = x + residuals.mid.to(x.dtype)
            for block in up[: len(down) - depth]:
                x = block(x, skips)
            return x

        for step in down[:depth]:
            x = step(x)
            skips.append(x)
        x = deep(x) if reuse is None else reuse(before, x, deep)
        for block in up[len(down) - depth :]:
            x = block(x, skips)
        return self.conv_out(self.conv_norm_out(x))

    def _down(self, inputs: BlockInputs) -> list[Callable[[Tensor], Tensor]]:
        """Blocks and downsamplings in order; each makes one skip connection."""
        steps: list[Callable[[Tensor], Tensor]] = []
        for level in cast(Iterable[UNetLevel], self.down_blocks):
            steps += [partial(level.block, i, inputs=inputs) for i in range(len(level.resnets))]
            steps += level.downsamplers
        return steps

    def _up(self, inputs: BlockInputs) -> list[Callable[[Tensor, list[Tensor]], Tensor]]:
        """Blocks in order, the upsampling of a level with its last one; each takes one skip connection off the end."""
        levels = cast(Iterable[UNetLevel], self.up_blocks)
        return [partial(level.block_up, i, inputs=inputs) for level in levels for i in range(len(level.resnets))]

    def vector(self, time: Tensor, conditioning: Conditioning, batch: int) -> Tensor:
        """The vector (B, T) of time, label, pooled text and sizes that all residual blocks share. time: (B,) or ()."""
        vector = self.time_embedding(sinusoid(time.expand(batch), self.config.widths[0]))
        if self.class_embedding is not None and conditioning.labels is not None and not self.config.class_tokens:
            vector = vector + self.class_embedding(conditioning.labels).to(vector.dtype)
        pooled, sizes, size_dim = conditioning.pooled, conditioning.sizes, self.config.size_embedding_dim
        if self.add_embedding is not None and pooled is not None and sizes is not None and size_dim is not None:
            embedded = sinusoid(sizes.flatten(), size_dim).reshape(batch, -1).to(pooled.dtype)
            vector = vector + self.add_embedding(torch.cat([pooled, embedded], dim=-1))
        return vector

    def _tokens(self, conditioning: Conditioning) -> Tensor | None:
        if self.config.class_tokens and self.class_embedding is not None and conditioning.labels is not None:
            return self.class_embedding(conditioning.labels)[:, None]
        return conditioning.tokens

    def _check(self, x: Tensor, conditioning: Conditioning) -> None:
        channels = x.shape[1] + (0 if conditioning.concat is None else conditioning.concat.shape[1])
        if channels != self.config.in_channels:
            raise ValueError(
                f"{channels} input channels (latent and concat); this network has in_channels={self.config.in_channels}"
            )
        for field in sorted(self.needs - {"concat"}):  # whose channels are counted above
            if getattr(conditioning, field) is None:
                raise ValueError(f"conditioning.{field} is missing; this network was built to be conditioned on it")
