"""Layers that compute with oneDNN from weights in its own order, for inference on CPUs."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autoencoder.blocks
from autoencoder.kernels import Conv2d, GroupNorm, corner_kernels, interleave
from autoencoder.views import shallow_copy
from ldm.engine import winograd
from ldm.engine.attention_products import attention_by_products, is_worth_products
from ldm.engine.onednn import Geometry, convolve, linear, pack, pack_kernel, packed_dtypes
from ldm.networks.attention import AttentionHook
from ldm.networks.backends import DEFAULT
from ldm.networks.unet.blocks import GEGLU, Attention, FeedForward
from ldm.networks.unet.resample import Upsample

_FEW_ROWS = 16
"""Rows below which a matrix product takes less time than the call of oneDNN."""
_SMALL_MAP = 1024
"""Pixels below which PyTorch's channels_last group norm reads bf16 number by number."""
_CACHED = 2**20
"""Numbers between two products that a thread works on at a time."""
_WORTH_FOLDING = 256
"""Pixels from which on a doubled map is convolved faster by the folded kernel, which has 16 weights for 9."""


class Kept:
    """The last result of something, with what it was made from. Threads may share it: each sees a whole one."""

    def __init__(self) -> None:
        self._last: tuple[Hashable, Any] | None = None

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result for `key`: the last one where the key is the same, else a new one."""
        last = self._last
        if last is None or last[0] != key:
            self._last = last = key, make()
        return last[1]

    def forget(self) -> None:
        """Drop it."""
        self._last = None


class PackedLinear(nn.Linear):
    """A linear layer, or a 1x1 convolution as the linear layer that it is on tokens."""

    kept: Kept

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D); returns (..., D')."""
        weight = self.weight
        if not is_packed(x, weight) or x.numel() < _FEW_ROWS * x.shape[-1]:
            return F.linear(x, weight.flatten(1), self.bias)
        packed = self.kept.get(stamp(weight), lambda: pack(weight.flatten(1)))
        return linear(x, packed, self.bias)


class PackedConv2d(nn.Conv2d):
    """A convolution without groups that pads with zeros; what it gives is channels_last."""

    kept: Kept

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns (B, C', h, w)."""
        padding = self.padding
        if (
            not is_packed(x, self.weight)
            or self.groups != 1
            or self.padding_mode != "zeros"
            or isinstance(padding, str)
        ):
            return self._conv_forward(x, self.weight, self.bias)
        dense = self.stride == self.dilation == (1, 1)
        if dense and winograd.is_worth_it(x, self.weight, padding):
            kernel = self.kept.get(("winograd", stamp(self.weight)), lambda: winograd.pack_kernel(self.weight))
            return winograd.convolve(x, kernel, self.bias, padding)
        geometry = Geometry(padding, self.stride, self.dilation)
        packed = self.kept.get(stamp(self.weight), lambda: pack_kernel(self.weight, geometry, x))
        return convolve(x, packed, self.bias, geometry)


class PackedUpsample(Upsample):
    """`Upsample` without the doubled map, by a folded kernel: 16 products for 36."""

    kept: Kept

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (B, C, h, w); returns (B, C, *size)."""
        height, width = x.shape[2:]
        worth = height * width >= _WORTH_FOLDING and tuple(size) == (2 * height, 2 * width)
        if not worth or not _is_foldable(self.conv, x):
            return super().forward(x, size)
        return _double_and_convolve(x, self.conv, self.kept)


class PackedDoubling(autoencoder.blocks.Upsample):
    """Likewise, of an autoencoder."""

    kept: Kept

    def doubled(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w); returns (B, C, 2 h, 2 w)."""
        if x.shape[2] * x.shape[3] < _WORTH_FOLDING or not _is_foldable(self.conv, x):
            return super().doubled(x)
        return _double_and_convolve(x, self.conv, self.kept)


class ChannelsLastGroupNorm(GroupNorm):
    """`GroupNorm` by PyTorch's operator for channels_last, which is the faster one where nothing is trained."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns the same shape, type and memory layout."""
        if not is_packed(x, self.weight):
            return super().forward(x)
        if x.dtype is torch.bfloat16 and x.shape[2] * x.shape[3] < _SMALL_MAP:
            y = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        else:
            y = F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return (F.silu(y, inplace=True) if self.silu else y).to(x.dtype)


class PackedGEGLU(GEGLU):
    """`GEGLU` in two products, so that what is multiplied lies together; the gate's GELU is part of its product."""

    kept: Kept

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim); returns (..., inner)."""
        if not isinstance(self.proj, PackedLinear) or not is_packed(x, self.proj.weight):
            return super().forward(x)
        weight, bias = self.proj.weight, self.proj.bias
        (value, value_bias), (gate, gate_bias) = self.kept.get(
            (stamp(weight), stamp(bias)),
            lambda: [(pack(w), b.clone()) for w, b in zip(weight.chunk(2), bias.chunk(2), strict=True)],
        )
        return linear(x, value, value_bias).mul_(linear(x, gate, gate_bias, "gelu", "none"))


class PackedFeedForward(FeedForward):
    """`FeedForward` some tokens at a time: what lies between its products stays in the caches, in memory in use."""

    kept: Kept

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, C); returns the same shape."""
        rows = max(1, _CACHED * torch.get_num_threads() // (4 * x.shape[-1]))
        tokens = x.flatten(0, -2)
        if len(tokens) <= rows or not is_packed(x):
            return super().forward(x)
        return torch.cat([super(PackedFeedForward, self).forward(part) for part in tokens.split(rows)]).view(x.shape)


class PackedAttention(Attention):
    """`Attention` of many tokens by oneDNN's products. Keys and values of a context are computed once for a walk."""

    kept: Kept

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, hook: AttentionHook | None = None
    ) -> Tensor:
        """See `Attention`. A hook gets keys and values of its own, which it may write to."""
        packed = isinstance(self.to_k, PackedLinear) and isinstance(self.to_v, PackedLinear)
        if context is None or hook is not None or not packed or not is_packed(x, self.to_k.weight):
            return super().forward(x, context, mask, hook)
        key = id(context), stamp(context), stamp(self.to_k.weight), stamp(self.to_v.weight)
        # The context is kept with them, so that nothing else can have its place.
        _, k, v = self.kept.get(key, lambda: (context, *map(self.by_head, (self.to_k(context), self.to_v(context)))))
        out = self.attend(self.by_head(self.to_q(x)), k, v, mask)
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Attending`."""
        if self.backend == DEFAULT and mask is None and is_packed(q) and is_worth_products(q, k):
            return attention_by_products(q, k, v)
        return super().attend(q, k, v, mask)


class PackedMidAttention(autoencoder.blocks.Attention):
    """An autoencoder's attention by oneDNN's products, likewise."""

    kept: Kept

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `autoencoder.blocks.Attention`."""
        by_products = is_packed(q) and is_worth_products(q, k)
        return attention_by_products(q, k, v) if by_products else super().attend(q, k, v)


KINDS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: PackedLinear,
    nn.Conv2d: PackedConv2d,
    Conv2d: PackedConv2d,
    GroupNorm: ChannelsLastGroupNorm,
    GEGLU: PackedGEGLU,
    FeedForward: PackedFeedForward,
    Attention: PackedAttention,
    Upsample: PackedUpsample,
    autoencoder.blocks.Upsample: PackedDoubling,
    autoencoder.blocks.Attention: PackedMidAttention,
}
"""What computes in a layer's place, by its exact type: a subclass may compute something else."""


def as_packed(kind: type[nn.Module], layer: nn.Module, kept: Kept) -> nn.Module:
    """The layer as another object of this kind, with the same parameters, hooks and layers inside.

    Args:
        kind: one of `KINDS`, or `PackedLinear` for a 1x1 convolution that is given tokens.
        layer: whose place it takes.
        kept: where its packed weights are.
    """
    view = shallow_copy(layer)
    view.__class__ = kind
    vars(view)["kept"] = kept
    return view


def is_packed(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether layers compute x with packed weights: on CPUs, without gradients, in a type that oneDNN has here."""
    if torch.is_grad_enabled() or not x.is_cpu or (weight is not None and weight.dtype is not x.dtype):
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype in packed_dtypes() and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def stamp(tensor: Tensor) -> Hashable:
    """Differs after the tensor was written to, or given other memory or another type."""
    return tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version


def _is_foldable(convolution: nn.Module, x: Tensor) -> TypeGuard[PackedConv2d]:
    return isinstance(convolution, PackedConv2d) and is_packed(x, convolution.weight)


def _double_and_convolve(x: Tensor, convolution: PackedConv2d, kept: Kept) -> Tensor:
    """See `autoencoder.kernels.double_and_convolve`; folded kernels are kept in oneDNN's order."""
    weight, bias, geometry = convolution.weight, convolution.bias, Geometry()
    packed, biases = kept.get(
        (stamp(weight), None if bias is None else stamp(bias)),
        lambda: (pack_kernel(corner_kernels(weight), geometry, x), None if bias is None else bias.repeat(4)),
    )
    return interleave(convolve(x, packed, biases, geometry))
