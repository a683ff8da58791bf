"""The settings of reconstruction, each once; light to import, as `ldm.generation.request` is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldm.generation.setting import described

if TYPE_CHECKING:
    from ldm.tasks.picture import Picture

METHODS = {
    "daps": "samples, by the denoiser's measured error",
    "diffpir": "nearer to one best picture, without spread",
    "ddnm": "for pictures without noise",
    "dps": "by gradients through the denoiser; slow, biased by noise, for hundreds of steps",
    "red_diff": "one best picture by gradients through the autoencoder, for hundreds of steps",
}
"""Those of `ldm.guidance.posterior`, and of `ldm.guidance.posterior_gradients`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReconstructSettings:
    """What happened to a picture, and how what is lost is sampled."""

    operator: str = described(
        "identity",
        "What the picture went through, in order: blur=2, area-down=4, grey, identity, or blur=2,area-down=4.",
        group="Reconstruct",
    )
    mask: "Picture | None" = described(
        None, "What is missing is white in this picture, of IMAGE's size.", group="Reconstruct", file=True
    )
    noise_level: float = described(
        0.0,
        "Standard deviation of the noise that came last, of 255; what lies beyond black and white was clipped.",
        least=0,
        most=255,
        group="Reconstruct",
    )
    method: str = described("daps", f"{', '.join(METHODS)}.", flag="--method", choices=METHODS, group="Reconstruct")
