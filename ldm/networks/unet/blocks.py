"""The pieces of the U-Net: residual blocks, transformer blocks, resampling. Parameter names are diffusers' names."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels import Conv2d, GroupNorm, geglu
from ldm.networks.attention import Attending, AttentionHook


@dataclass(frozen=True)
class BlockInputs:
    """The inputs that all blocks of one forward pass share, besides the features.

    Attributes:
        time: (B, T) after SiLU.
        tokens: (B, L, D) or None.
        mask: (B, L) bool or None, True where a token counts.
    """

    time: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    hook: AttentionHook | None = None


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions with the time added between them, around a skip (Ho et al. 2020, appendix B)."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=1e-5, silu=True)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=1e-5, silu=True)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """x: (B, C, H, W); returns (B, C', H, W)."""
        h = self.conv1(self.norm1(x))
        h = h + self.time_emb_proj(inputs.time)[:, :, None, None]
        h = self.conv2(self.norm2(h))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(Attending):
    """Multi-head attention from x to a context (to x itself without one); only the output projection has a bias."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, hook: AttentionHook | None = None
    ) -> Tensor:
        """x: (B, L, C), context: (B, Lc, Dc), mask: (B, Lc) bool; returns (B, L, C)."""
        context = x if context is None else context
        q, k, v = map(self.by_head, (self.to_q(x), self.to_k(context), self.to_v(context)))
        out = self.attend(q, k, v, mask) if hook is None else hook(self, q, k, v, mask)
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, L, N * D) -> (B, N, L, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another one (Shazeer 2020, equation 6)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim); returns (..., inner)."""
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """GEGLU to four times the width and back. The place in the middle of `net` is diffusers' dropout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, C); returns the same shape."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a layer norm and a skip.

    only_cross: the first attention is to the tokens too.
    """

    def __init__(self, dim: int, heads: int, context_dim: int, only_cross: bool = False) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, context_dim if only_cross else dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """x: (B, L, C); returns the same shape."""
        tokens, mask = (inputs.tokens, inputs.mask) if self.only_cross else (None, None)
        x = x + self.attn1(self.norm1(x), tokens, mask, inputs.hook)
        x = x + self.attn2(self.norm2(x), inputs.tokens, inputs.mask, inputs.hook)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, around a skip (Rombach et al. 2022, appendix E.2.1)."""

    def __init__(
        self, dim: int, heads: int, depth: int, context_dim: int, groups: int, linear: bool, only_cross: bool = False
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.proj_in: nn.Linear | nn.Conv2d = nn.Linear(dim, dim) if linear else nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(dim, heads, context_dim, only_cross) for _ in range(depth)
        )
        self.proj_out: nn.Linear | nn.Conv2d = nn.Linear(dim, dim) if linear else nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, inputs: BlockInputs) -> Tensor:
        """x: (B, C, H, W); returns the same shape."""
        tokens = project(self.proj_in, self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, inputs)
        tokens = project(self.proj_out, tokens)
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def project(layer: nn.Linear | nn.Conv2d, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution as the linear layer that it is, on tokens (B, L, C): no layout changes."""
    if isinstance(layer, nn.Linear):
        return layer(tokens)
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)
