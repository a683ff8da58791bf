"""A whole model: its networks, its noise, and how it is used by default."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from torch import nn

from autoencoder.build import Autoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip.pair import ClipTextEncoder
from ldm.families.denoising_error import DenoisingError
from ldm.families.kinds import TEXT_TO_IMAGE, kind_of
from ldm.naming import OptionValue
from ldm.networks.unet import UNet
from ldm.networks.upscaler.model import Upscaler
from ldm.process import DiscreteVP, Process


@dataclass(frozen=True)
class SchedulerSettings:
    """The noise a model was trained with, and how it is sampled by default.

    Attributes:
        process, prediction_type: of the model.
        sampler, schedule: keys of `ldm.samplers.SAMPLERS` and `ldm.schedules.SCHEDULES`.
        sampler_options: the sampler's own, where they are not their defaults.
        schedule_options: the schedule's own, beyond those of `ldm.schedules.diffusers_grids.grid_options`.
    """

    process: Process
    prediction_type: str
    sampler: str
    schedule: str
    sampler_options: Mapping[str, OptionValue] = field(default_factory=dict)
    schedule_options: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """Default settings of a model, used where a request leaves them open.

    Attributes:
        width, height: of the picture that the denoiser draws, in pixels, before any upscaler.
        sampler_options, schedule_options: those of the model's scheduler file.
    """

    width: int
    height: int
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    sampler: str = "ddim"
    schedule: str = "trailing"
    sampler_options: Mapping[str, OptionValue] = field(default_factory=dict)
    schedule_options: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True)
class FewSteps:
    """A LoRA that lets a model draw in few steps and without guidance, and how it is used.

    Attributes:
        lora: its file.
        num_inference_steps, sampler, schedule: in place of the model's defaults.
        by_default: whether it is used where a request leaves it open; else only where it is requested.
    """

    lora: Path
    num_inference_steps: int = 4
    sampler: str = "ddim"
    schedule: str = "trailing"
    by_default: bool = True

    def defaults(self, full: Defaults) -> Defaults:
        """The defaults of the model with it.

        Args:
            full: of the model without it.
        """
        return replace(
            full,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=1.0,
            guidance_rescale=0.0,
            sampler=self.sampler,
            schedule=self.schedule,
            sampler_options={},
            schedule_options={},
        )


@dataclass(frozen=True)
class LowResolution:
    """The small picture of the x4 upscaler: the noise that is put into it, up to and with level `max_noise_level`."""

    process: Process = field(default_factory=lambda: DiscreteVP("scaled_linear", beta_start=0.0001, beta_end=0.02))
    max_noise_level: int = 350


@dataclass(frozen=True)
class ModelParts:
    """A whole model.

    Attributes:
        text: one tower, or SDXL's pair; None for a model that is conditioned on class labels or on nothing.
        zeros_for_empty: an empty negative prompt is zeros, see `conditioning.prompt.encoder.PromptEncoder`.
        low_resolution: of the x4 upscaler.
        words: all words of the captions that it was trained on, where somebody wrote them down; None if not.
        few_steps: how it draws in few steps, if it can.
        errors: of its denoiser, where somebody measured them.
    """

    text: ClipTextEncoder | None
    unet: UNet
    autoencoder: Autoencoder
    latent_format: LatentFormat
    process: Process
    prediction_type: str
    defaults: Defaults
    upscaler: Upscaler | None = None
    zeros_for_empty: bool = False
    low_resolution: LowResolution | None = None
    words: frozenset[str] | None = None
    few_steps: FewSteps | None = None
    errors: DenoisingError | None = None

    @property
    def kind(self) -> str:
        """The kind of the model: `TEXT_TO_IMAGE` or one of `CONCAT` of `ldm.families.kinds`."""
        return kind_of(self.unet) or TEXT_TO_IMAGE

    def in_memory(self) -> Self:
        """The same parts, after their weights have been copied out of the files that they may be mapped from."""
        for network in (self.text, self.unet, self.autoencoder, self.upscaler):
            if isinstance(network, nn.Module):
                for tensor in (*network.parameters(), *network.buffers()):
                    tensor.data = tensor.data.clone()
        return self
