"""Published LoRAs that let Stable Diffusion draw in few steps: how their files are named, and how they are used."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ldm.families.parts import Defaults
from ldm.naming import OptionValue

_NAMELESS = ("pytorch-lora-weights", "adapter-model", "lora", "model")
"""Names of files that say nothing; the folder, or the repository in the hub's cache, does."""
_FOLDERS = 4
_TITLES = ("ss_output_name", "modelspec.title", "name")
"""Where kohya's trainer and others write a name into the header."""


@dataclass(frozen=True)
class FewStepLora:
    """A kind of LoRA for few steps, and its settings, which a request may override one by one.

    Attributes:
        title: what it is called.
        pattern: of its files' names, in small letters with hyphens between words; the group `steps` is their number.
        num_inference_steps: where the name does not say it.
        guidance_scale: 1 is none, which the published examples write as 0.
        sampler, schedule, sampler_options, schedule_options: see `Defaults`.
    """

    title: str
    pattern: str
    num_inference_steps: int
    sampler: str
    guidance_scale: float = 1.0
    schedule: str = "trailing"
    sampler_options: Mapping[str, OptionValue] = field(default_factory=dict)
    schedule_options: Mapping[str, OptionValue] = field(default_factory=dict)

    def defaults(self, full: Defaults) -> Defaults:
        """The defaults of a model with it.

        Args:
            full: of the model without it.
        """
        return replace(
            full,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            guidance_rescale=0.0,
            sampler=self.sampler,
            schedule=self.schedule,
            sampler_options=self.sampler_options,
            schedule_options=self.schedule_options,
        )

    def __str__(self) -> str:
        steps = "1 step" if self.num_inference_steps == 1 else f"{self.num_inference_steps} steps"
        options = "".join(f", {name} {value}" for name, value in self.sampler_options.items())
        return (
            f"{self.title}: {steps}, guidance scale {self.guidance_scale:g}, {self.sampler} on {self.schedule}{options}"
        )


# The settings are those of the examples on the cards, huggingface.co/NAME.
FEW_STEP_LORAS = (
    # latent-consistency/lcm-lora-sdv1-5, lcm-lora-sdxl, lcm-lora-ssd-1b: LCMScheduler, 2 to 8 steps, guidance 0 to 2
    FewStepLora("LCM-LoRA", r"lcm-lora", 4, "lcm"),
    # h1t/TCD-SD15-LoRA, TCD-SD21-base-LoRA, TCD-SDXL-LoRA: TCDScheduler, 4 steps, eta 0.3, guidance 0
    FewStepLora("TCD-LoRA", r"\btcd-(sd|lora)", 4, "tcd", sampler_options={"eta": 0.3}),
    # ByteDance/Hyper-SD: Hyper-SD15-8steps-CFG-lora and 12, "support 5~8 guidance scales"; DDIM, trailing
    FewStepLora("Hyper-SD with guidance", r"hyper-sd.*\b(?P<steps>\d+)-?steps?-cfg", 8, "ddim", guidance_scale=5.0),
    # ByteDance/Hyper-SD: Hyper-SD15-1step-lora, TCDScheduler with eta 1, guidance 0
    FewStepLora("Hyper-SD", r"hyper-sd.*\b(?P<steps>1)-?step", 1, "tcd", sampler_options={"eta": 1.0}),
    # ByteDance/Hyper-SD: Hyper-SDXL-2steps-lora, 4, 8; DDIM with timestep_spacing="trailing", guidance 0
    FewStepLora("Hyper-SD", r"hyper-sd.*\b(?P<steps>\d+)-?steps?", 4, "ddim"),
    # ByteDance/SDXL-Lightning: sdxl_lightning_4step_lora; Euler with "trailing" (ComfyUI: sgm_uniform), guidance 0
    FewStepLora("SDXL-Lightning", r"lightning.*\b(?P<steps>\d+)-?steps?.*lora", 4, "euler"),
    # tianweiy/DMD2: dmd2_sdxl_4step_lora; LCMScheduler, timesteps [999, 749, 499, 249], guidance 0
    FewStepLora("DMD2", r"dmd2?-sdxl.*\b(?P<steps>\d+)-?steps?", 4, "lcm", schedule_options={"original_steps": 4}),
)
"""The first whose pattern is found holds."""


def few_step_lora(path: Path, metadata: Mapping[str, str]) -> FewStepLora | None:
    """Which LoRA for few steps a file is, by its name or what its header calls it; None for any other.

    Args:
        path: of the file.
        metadata: of its header.
    """
    for name in _names(path, metadata):
        for kind in FEW_STEP_LORAS:
            if found := re.search(kind.pattern, name):
                steps = found.groupdict().get("steps")
                return kind if steps is None else replace(kind, num_inference_steps=max(1, int(steps[:3])))
    return None


def _names(path: Path, metadata: Mapping[str, str]) -> Iterator[str]:
    """What a file is called, most telling first, as patterns are written."""
    name = _folded(path.stem)
    yield name
    if name in _NAMELESS:
        yield from (_folded(folder.name) for folder in list(path.absolute().parents)[:_FOLDERS])
    yield from (_folded(metadata[key]) for key in _TITLES if key in metadata)


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name[:200].casefold())
