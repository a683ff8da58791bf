"""What adapters do to weights: LoRA and LoCon, LoHa, LoKr, whole changes, DoRA. `ldm.io.lora` knows the names."""

from dataclasses import dataclass

import torch
from torch import Tensor

Device = torch.device | str


@dataclass(frozen=True, eq=False)
class LowRank:
    """scale * up down (Hu et al. 2021, "LoRA", equation 3); as convolutions one after the other, LoCon.

    Attributes:
        down: (r, I) or (r, I, kh, kw).
        up: (O, r) or (O, r, 1, 1).
        mid: None, or (r', r, kh, kw) for a kernel of Tucker rank (r', r); then down is (r, I, 1, 1) and up is (O, r',
            1, 1).
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """r, by which formats that store an alpha divide it: scale = alpha / r."""
        return self.down.shape[0]

    def product(self, device: Device) -> Tensor:
        """up mid down without the scale, fp32: (O, I) or (O, I, kh, kw).

        Raises:
            RuntimeError: factors whose shapes do not fit.
        """
        down, up = _fp32(self.down, device), _fp32(self.up, device).flatten(1)
        if self.mid is not None:
            return torch.einsum("oa,abkl,bi->oikl", up, _fp32(self.mid, device), down.flatten(1))
        return (up @ down.flatten(1)).reshape(-1, *down.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product; read off the factors, as PyTorch's way to compute shapes alone takes half a second to import.

        Raises:
            RuntimeError: factors whose shapes do not fit.
        """
        if self.mid is not None:
            return tuple(self.product("meta").shape)
        outputs, rank = self.up.flatten(1).shape
        if rank != self.rank:
            raise RuntimeError(f"{tuple(self.up.shape)} and {tuple(self.down.shape)} cannot be multiplied")
        return outputs, *self.down.shape[1:]


@dataclass(frozen=True, eq=False)
class Hadamard:
    """scale * (w1_a w1_b) o (w2_a w2_b), elementwise (Hyeon-Woo et al. 2021, "FedPara", proposition 1; LyCORIS' LoHa).

    w*_a: (O, r), w*_b: (r, I) or (r, I * kh * kw). With kernels t1 and t2 (r, r, kh, kw), as in proposition 3, w*_a is
    (r, O) and w*_b (r, I). The rank is r.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """r, by which formats that store an alpha divide it."""
        return self.w1_b.shape[0]

    def product(self, device: Device) -> Tensor:
        """The product without the scale, fp32: (O, I), (O, I * kh * kw) or (O, I, kh, kw).

        Raises:
            RuntimeError: factors whose shapes do not fit.
        """
        return _two(self.w1_a, self.w1_b, self.t1, device) * _two(self.w2_a, self.w2_b, self.t2, device)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """scale * w1 (x) w2, the Kronecker product (Yeh et al. 2023, "Navigating text-to-image customization", LoKr).

    With these shapes O = a b and I = c d.

    Attributes:
        w1: (a, c), or None for its factors.
        w1_a: (a, r).
        w1_b: (r, c).
        w2: (b, d) or (b, d, kh, kw), or None for its factors.
        w2_a: (b, r); (r, b) with t2.
        w2_b: (r, d) or (r, d * kh * kw); (r, d) with t2.
        t2: kernel (r, r, kh, kw) between w2_a and w2_b.
        scale: of the product.
    """

    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    scale: float = 1.0

    @property
    def rank(self) -> int | None:
        """r, by which formats that store an alpha divide it; None where both are whole, and alpha says nothing."""
        factor = self.w1_b if self.w2_b is None else self.w2_b
        return None if factor is None else factor.shape[0]

    def product(self, device: Device) -> Tensor:
        """w1 (x) w2 without the scale, fp32: (O, I), (O, I * kh * kw) or (O, I, kh, kw).

        Raises:
            RuntimeError: factors whose shapes do not fit.
        """
        w1 = _whole(self.w1, self.w1_a, self.w1_b, None, device)
        w2 = _whole(self.w2, self.w2_a, self.w2_b, self.t2, device)
        # kron cannot take the strides that einsum leaves.
        return torch.kron(w1.flatten(1).reshape(*w1.shape[:2], *[1] * (w2.ndim - 2)), w2.contiguous())


@dataclass(frozen=True, eq=False)
class Whole:
    """scale * values, a number for every number of a weight, a bias or a norm (LyCORIS' full and norm modules)."""

    values: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> None:
        """There is none."""

    def product(self, device: Device) -> Tensor:
        """The values without the scale, fp32."""
        return _fp32(self.values, device)


Sum = LowRank | Hadamard | Kronecker | Whole
"""What is added to a weight, whatever the weight is."""


@dataclass(frozen=True, eq=False)
class Decomposed:
    """magnitude * V / |V| in place of a weight W, with V = W + delta (Liu et al. 2024, "DoRA", equation 5).

    Attributes:
        delta: of V.
        magnitude: (O,) or (O, 1, ...), with |V| the norm of the weights of each output; or (1, I, ...), of each input.
    """

    delta: Sum
    magnitude: Tensor

    @property
    def rank(self) -> int | None:
        """The delta's."""
        return self.delta.rank

    @property
    def scale(self) -> float:
        """The delta's."""
        return self.delta.scale

    @property
    def axis(self) -> int:
        """The axis of a weight along which there are magnitudes: 0 outputs, 1 inputs."""
        return 0 if self.magnitude.ndim == 1 or self.magnitude.shape[0] > 1 else 1

    def change(self, weight: Tensor) -> Tensor:
        """The new weight less the old one, fp32: (O, I) or (O, I, kh, kw)."""
        changed = accumulate(weight.clone(), self.delta)
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        magnitude = _fp32(self.magnitude, weight.device).reshape(norm.shape)
        return changed.mul_(magnitude / norm.clamp_min(torch.finfo(torch.float32).eps)).sub_(weight)


Delta = Sum | Decomposed
"""A change of one weight, bias or norm."""


def accumulate(weight: Tensor, delta: Delta, factor: float = 1.0, base: Tensor | None = None) -> Tensor:
    """weight + factor * delta, in place.

    Args:
        weight: fp32, (O, I) or (O, I, kh, kw), of any layout; of a bias or a norm (O,).
        delta: what is added.
        factor: of the delta, beside its own scale.
        base: the weight without any adapter, which a DoRA is relative to; by default `weight`.
    """
    if isinstance(delta, Decomposed):
        return weight.add_(delta.change(weight if base is None else base), alpha=factor)
    return weight.add_(delta.product(weight.device).reshape(weight.shape), alpha=factor * delta.scale)


def check_shape(delta: Delta, shape: tuple[int, ...]) -> None:
    """Raise ValueError, in a clause, unless `delta` fits a weight of `shape`. Computes nothing.

    A 1x1 convolution is a linear layer and the other way round; a kernel may be flat, as LyCORIS' factors are.
    """
    if isinstance(delta, Decomposed):
        check_shape(delta.delta, shape)
        if len(shape) < 2 or delta.magnitude.numel() != shape[delta.axis]:
            raise ValueError(f"it has {delta.magnitude.numel()} magnitudes for a weight of {shape}")
        return
    try:
        found = torch.Size(delta.shape if isinstance(delta, LowRank) else delta.product("meta").shape)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"its factors do not fit each other ({reason})") from None
    if found[0] != shape[0] or found.numel() != torch.Size(shape).numel():
        raise ValueError(f"it changes a weight of {tuple(found)}, but this model's is {tuple(shape)}")


def _fp32(x: Tensor, device: Device) -> Tensor:
    return x.to(device, torch.float32)


def _two(a: Tensor, b: Tensor, kernel: Tensor | None, device: Device) -> Tensor:
    """a b, or the kernel with its first two axes spread by a and b. Factors of 1x1 convolutions may have their axes."""
    a, b = _fp32(a, device).flatten(1), _fp32(b, device).flatten(1)
    if kernel is None:
        return a @ b
    return torch.einsum("rskl,ro,si->oikl", _fp32(kernel, device), a, b)


def _whole(whole: Tensor | None, a: Tensor | None, b: Tensor | None, kernel: Tensor | None, device: Device) -> Tensor:
    if whole is not None:
        return _fp32(whole, device)
    if a is None or b is None:
        raise RuntimeError("a factor is missing")
    return _two(a, b, kernel, device)
