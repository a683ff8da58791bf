"""Guidance by a network whose self-attention is disturbed: what PAG and SEG share."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, push_away
from ldm.guidance.interval import WHOLE, Interval, check_finite
from ldm.naming import nearest
from ldm.networks.attention import AttentionHook
from ldm.networks.options import NetworkOptions

MIDDLE = ("mid",)
"""The layers to disturb where nothing else is said: the U-Net's middle, as in both papers."""


def matching_layers(field: str, patterns: str | Sequence[str], layers: Sequence[str]) -> frozenset[str]:
    """The self-attention layers that any pattern is found in.

    Args:
        field: the argument's name, for errors.
        patterns: one or several regular expressions, searched for in the names, as diffusers' `pag_applied_layers`:
            `mid`, `up_blocks.1`, `down_blocks.2.attentions.0`.
        layers: names of all self-attention layers of the network.

    Raises:
        ValueError: a pattern that is no regular expression or is in no name.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            matching = {layer for layer in layers if re.search(pattern, layer)}
        except re.error as error:
            raise ValueError(f"{field}={pattern!r} is no regular expression ({error}); use e.g. 'mid'") from None
        if not matching:
            places = sorted({".".join(layer.split(".")[:-3]) for layer in layers})
            raise ValueError(f"{field}={pattern!r} names no self-attention layer; {nearest(pattern, places)}")
        found |= matching
    if not found:
        raise ValueError(f"{field} is empty; name layers, e.g. 'mid'")
    return frozenset(found)


class AttentionGuidance(Guidance):
    """prediction + scale * (conditional - disturbed), with `disturbed` from other attention in some layers.

    `disturbed` is the same network's prediction under the same prompt. One more part in the one network call, the last;
    scale 0 costs nothing. Around `ClassifierFreeGuidance` both scales count from the conditional, as in diffusers.

    Args:
        denoiser: a denoiser whose network has an attention hook, or the chain so far.
        scale: 0 is off.
        layers: which to disturb, see `matching_layers`.
        interval: see `Guidance`.

    Raises:
        ValueError: names the argument that is out of range, or the layer that does not exist.
    """

    word: ClassVar[str]
    """Prefix of the arguments' public names."""

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        scale: float,
        layers: str | Sequence[str] = MIDDLE,
        interval: Interval = WHOLE,
    ) -> None:
        check_finite(f"{self.word}_scale", scale)
        super().__init__(denoiser, interval)
        self.scale, self.neutral = float(scale), scale == 0
        known = () if self.neutral else self.source.self_attention_layers
        self.layers = frozenset() if self.neutral else matching_layers(f"{self.word}_applied_layers", layers, known)

    @abstractmethod
    def _hook(self, x: Tensor) -> AttentionHook:
        """The disturbing attention for x `(B, C, h, w)`; hooks of the same setting are equal."""

    def _question(self, x: Tensor) -> NetworkPass:
        return NetworkPass(self.source, options=NetworkOptions(hook=self._hook(x)))

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (*inner, self._question(x))

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        return push_away(inner, predictions[self._question(x)], self.scale)
