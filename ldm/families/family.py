"""Model families: what all models of one family have in common and their files do not say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoencoder.config import AutoencoderConfig
from ldm.families.parts import SchedulerSettings
from ldm.networks.unet.config import UNetConfig
from ldm.process import DiscreteVP


@dataclass(frozen=True)
class Heads:
    """Attention heads of a U-Net: a fixed number for every width, or one for each `width` channels."""

    number: int | None = None
    width: int = 64

    def count(self, channels: int) -> int:
        """Heads of a level with so many channels."""
        return self.number or max(channels // self.width, 1)


@dataclass(frozen=True)
class Tower:
    """Where a text encoder is in a file, and what its weights do not say.

    Attributes:
        layout: `clip` or `open_clip`.
        folder: its name in diffusers' folders.
        projected: its projection of the pooled text is used.
        penultimate: the last layer of the whole tower is not run, and folders do not have it.
    """

    prefix: str
    layout: str
    activation: str
    pad_token: str
    folder: str = "text_encoder"
    projected: bool = False
    penultimate: bool = False
    head_width: int = 64


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        title: for people.
        unet, autoencoder: the published sizes (of text to image).
        heads, size_count: what their weights do not say.
        towers: text encoders in order.
        latent_scale: of the latents for the denoiser.
        preview: their colours, see `LatentFormat`.
        prediction_type: of every model of the family; None where there are both.
        process: the noise that they were trained with.
        samplers: prediction type -> the published sampler.
        size: resolution in pixels.
        size_v: resolution of `v_prediction` models, where it differs.
        architecture: its name in `modelspec.architecture`.
        zeros_for_empty: see `ModelParts`.
    """

    name: str
    title: str
    architecture: str
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    heads: Heads
    towers: tuple[Tower, ...]
    latent_scale: float
    prediction_type: str | None
    process: DiscreteVP
    samplers: Mapping[str, str]
    size: int
    size_v: int
    size_count: int = 6
    zeros_for_empty: bool = False
    preview: tuple[tuple[float, float, float], ...] | None = None

    def settings(self, prediction_type: str, zero_terminal_snr: bool = False) -> SchedulerSettings:
        """How the published models of this prediction type are sampled.

        Only `trailing` starts where zero-terminal SNR has no signal left (Lin et al. 2024, arXiv:2305.08891, sec. 3.3).
        """
        if zero_terminal_snr:
            process = replace(self.process, zero_terminal_snr=True, final_alpha_one=True)
            return SchedulerSettings(process, prediction_type, "euler", "trailing")
        return SchedulerSettings(self.process, prediction_type, self.samplers[prediction_type], "leading")
