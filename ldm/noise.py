"""Where noise comes from: a generator and a Brownian path per image, so a picture depends on its own seed alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.engine.placement import send

_DEPTH = 20
"""Times 2^-20 apart have independent increments; grids of a thousand steps stay above 2e-5."""


def _scramble(number: int) -> int:
    """A permutation of [0, 2^32) without visible order (the finaliser of Appleby's MurmurHash3)."""
    number = (number ^ number >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    number = (number ^ number >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return number ^ number >> 16


def _weights(t: float) -> dict[int, float]:
    """The weight of each node of a Brownian path in W(t), t in [0, 1] (Levy's construction: node -> weight).

    Node 0 is W(1). Node 1 is the midpoint of [0, 1], counted from the chord; 2n and 2n + 1 are the midpoints of the
    halves of node n's interval. The last node is a point of the Brownian bridge over the smallest interval, at t.
    """
    weights = {0: t}
    node, width, place = 1, 1.0, t
    for _ in range(_DEPTH):
        weights[node] = width**0.5 / 2 * (1 - abs(2 * place - 1))
        right = place >= 0.5
        node, width, place = 2 * node + right, width / 2, 2 * place - right
    weights[node] = (width * place * (1 - place)) ** 0.5
    return weights


class BrownianPath:
    """Standard Brownian motion on [0, 1] of one image: a fixed function of its key, in any order of evaluation.

    A virtual Brownian tree (Li et al. 2020, "Scalable Gradients for Stochastic Differential Equations", section 4):
    each node has its own seed, which is a permutation of the nodes made by the key, so that no two nodes of a path
    share one. Times less than 2^-20 apart lie in one smallest interval, where increments are too small in variance.

    Args:
        key: in [0, 2^63).
        shape: of one image, `(C, h, w)`.
    """

    def __init__(self, key: int, shape: Sequence[int]) -> None:
        self._low, self._high, self._shape = key & 0xFFFFFFFF, key >> 32, tuple(shape)
        self._recent: dict[int, Tensor] = {}
        self._generator = torch.Generator()

    def __call__(self, start: float, end: float) -> Tensor:
        """(W(end) - W(start)) / sqrt(end - start), `(C, h, w)`, standard normal; 0 <= start < end <= 1."""
        before, after = _weights(start), _weights(end)
        scale = (end - start) ** -0.5
        increments = {}
        total = torch.zeros(self._shape, dtype=torch.float32)
        for node in before | after:
            weight = (after.get(node, 0.0) - before.get(node, 0.0)) * scale
            if weight != 0:
                increments[node] = self._recent[node] if node in self._recent else self._draw(node)
                total.add_(increments[node], alpha=weight)
        self._recent = increments  # a sampler's next step begins where this one ended
        return total

    def _draw(self, node: int) -> Tensor:
        seed = _scramble(_scramble(node ^ self._low) ^ self._high)
        return torch.randn(self._shape, generator=self._generator.manual_seed(seed), dtype=torch.float32)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """One picture's noise `(C, h, w)` on the way to another one's along a great circle; variance stays 1.

    The formula of A1111's variation seeds, which takes the angle along h, so that its pictures repeat. Where columns
    are parallel it is a straight line; there A1111 (`modules/rng.py`) swaps the two weights, or gives NaN.

    Args:
        first: at share 0, to the bit.
        second: at share 1, to the bit.
        share: 0 to 1.
    """
    low, high = first.double(), second.double()  # of nearly parallel columns float32 has no angle
    cosine = F.cosine_similarity(low, high, dim=1, eps=1e-12).unsqueeze(1)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = (sine < 1e-4) | (cosine.mean() > 0.9995)
    weights = [torch.where(straight, part, (part * angle).sin() / sine) for part in (1 - share, share)]
    return (weights[0] * low + weights[1] * high).to(first.dtype)


class NoiseSource:
    """Standard normal noise, drawn image by image on the CPU in fp32.

    Image i of a batch gets the draws that it would get alone, whatever the batch and the device. The initial latent
    is the first draw; samplers draw the rest, or walk along the image's Brownian path.

    Args:
        seeds: one per image, each in [0, 2^64), of which torch's CPU generator keeps the lower 32 bits. Consecutive
            pictures of a run with seed s have the seeds s, s + 1, ...
        shape: of one image, `(C, h, w)`.
        device: where the drawn noise is put.

    Raises:
        ValueError: no seeds, or a seed out of range.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        for seed in seeds:
            if not 0 <= seed < 2**64:
                raise ValueError(f"seed={seed} is out of range; use 0 to {2**64 - 1}")
        self._prepare([torch.Generator().manual_seed(seed) for seed in seeds], shape, device)

    @classmethod
    def from_generators(
        cls, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> "NoiseSource":
        """The same from CPU generators as they stand, one per image; drawing moves them on.

        Their present state also decides the Brownian paths, without moving them. One generator may serve several
        images in turn.
        """
        source = cls.__new__(cls)
        source._prepare(generators, shape, device)
        return source

    def _prepare(self, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str) -> None:
        if not generators:
            raise ValueError("seeds is empty; give one seed per image")
        for generator in generators:
            if generator.device.type != "cpu":
                raise ValueError(f"generator is on {generator.device}; use torch.Generator('cpu'), whatever the device")
        self._generators, self._shape, self._device = list(generators), tuple(shape), torch.device(device)
        twins = {id(generator): torch.Generator().set_state(generator.get_state()) for generator in generators}
        keys = [torch.randint(2**63 - 1, (), generator=twins[id(generator)]).item() for generator in generators]
        self._paths = [BrownianPath(int(key), self._shape) for key in keys]

    def __call__(self) -> Tensor:
        """The next draw `(B, C, h, w)`."""
        draws = [torch.randn(self._shape, generator=generator, dtype=torch.float32) for generator in self._generators]
        return send(torch.stack(draws), self._device)

    def between(self, start: float, end: float) -> Tensor:
        """The noise of the stretch from `start` to `end` of the way from noise to picture, `(B, C, h, w)`.

        (W(end) - W(start)) / sqrt(end - start) along each image's Brownian path W: standard normal, the same however
        often and in whichever order it is evaluated, and independent of the draws of `__call__`. More steps see the
        same path more closely, so the picture of a stochastic differential equation converges with their number.

        Args:
            start: progress (`Process.progress`) of the earlier time, in [0, end).
            end: progress of the later time, in (start, 1].

        Raises:
            ValueError: start or end out of range or order.
        """
        if not 0 <= start < end <= 1:
            raise ValueError(f"noise between start={start} and end={end}; they must satisfy 0 <= start < end <= 1")
        return send(torch.stack([path(start, end) for path in self._paths]), self._device)
