"""A row of the table of `ldm eval restore`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.evaluation.metrics.estimate import Estimate


@dataclass(frozen=True)
class Row:
    """One method on one damage.

    Attributes:
        damage, method: their names; `input` is the damaged picture, `autoencoder ceiling` the truth through a model.
        psnr: in dB, inside the hole where there is one.
        ssim: of whole pictures.
        perceptual: distance of EfficientNet-lite0's features; less is nearer.
        seconds: of one picture; None of the input.
        settings: the method's.
    """

    damage: str
    method: str
    psnr: Estimate
    ssim: Estimate
    perceptual: Estimate
    seconds: float | None
    settings: Mapping[str, Any]
