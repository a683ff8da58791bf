"""The settings of tasks, each once: command line, Python and recipes are all read off these records.

Light to import, as `ldm.generation.request` is: no torch. A picture among them is its path on the command line.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldm.generation.setting import described

if TYPE_CHECKING:
    from ldm.tasks.picture import Picture

_JUMP = "Steps that --resample takes together; more agree better, and forget more of what was filled in."
_STEPS_SCALE = (
    "Take only this share of the steps, as diffusers and A1111 do, in place of as many steps as were requested."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Img2ImgSettings:
    """How a picture is changed as a whole."""

    strength: float = described(
        0.8, "How much is changed, as a share of the schedule: 0 nothing, 1 all.", least=0, most=1, group="Edit"
    )
    steps_scale: bool = described(False, _STEPS_SCALE, group="Edit")
    depth: "Picture | None" = described(
        None, "The depth map of IMAGE, for depth models; white is near.", group="Edit", file=True
    )


EDIT_METHODS = {
    "difference": "what the two prompts say differently, step by step; equal prompts give the picture's bytes",
    "ddpm": "the noise that leads to the picture, with the other prompt",
    "ddim": "the picture walked up to noise, and down again with the other prompt",
}
"""How a picture is carried from one prompt to another."""


@dataclass(frozen=True, eq=False, kw_only=True)
class WordsSettings:
    """How a picture is carried from the prompt that it shows to another one."""

    source: str = described("", "What IMAGE shows, in words: change only what PROMPT says differently.", group="Words")
    method: str = described(
        "difference", f"{', '.join(EDIT_METHODS)}.", flag="--edit-method", choices=EDIT_METHODS, group="Words"
    )
    strength: float = described(
        0.7, "Where editing begins, as a share of the schedule: 1 may change all.", least=0.01, most=1, group="Words"
    )
    source_guidance_scale: float | None = described(
        None,
        "How strongly the source prompt guides.",
        flag="--source-cfg-scale",
        otherwise="as --cfg-scale, and 1 for ddim",
        least=-10_000,
        most=10_000,
        group="Words",
    )
    average: int = described(
        1, "Draws of noise that each step of difference editing averages.", least=1, most=100, group="Words"
    )
    iterations: int = described(3, "Guesses at each step of ddim's way up.", least=1, most=100, group="Words")
    local: float = described(
        1.0,
        "Change only the cells that hold this share of all change, and keep every byte elsewhere; 1 is everywhere.",
        least=0.01,
        most=1,
        group="Words",
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class InstructSettings:
    """How closely an InstructPix2Pix model keeps to the picture that it sees."""

    image_guidance_scale: float = described(
        1.5,
        "With --instruct: how closely to keep to IMAGE; 1 is as the model learned it.",
        flag="--image-cfg-scale",
        least=-100,
        most=100,
        group="Words",
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class EditSettings(Img2ImgSettings, InstructSettings, WordsSettings):
    """All that `ldm edit` may be given; which task it is follows from it."""

    instruct: bool = described(False, "PROMPT is an instruction, for InstructPix2Pix models.", group="Words")


@dataclass(frozen=True, eq=False, kw_only=True)
class InpaintSettings:
    """Which part of a picture is drawn anew, and how."""

    mask: "Picture" = described(None, "What to draw anew is white in this picture.", group="Mask", file=True)
    soft: bool = described(
        False, "Grey in the mask says how much is changed there, as --strength does for all.", group="Mask"
    )
    crop: int | None = described(
        None,
        "Work on the mask's surroundings alone, so many pixels around it, in the model's size (or --width, --height).",
        otherwise="the whole picture",
        least=0,
        most=2**16,
        group="Mask",
    )
    feather: int = described(
        0, "Over so many pixels within the mask, the new fades into the old.", least=0, most=1024, group="Mask"
    )
    strength: float = described(
        1.0, "How much is changed where the mask is white: 0 nothing, 1 all.", least=0, most=1, group="Mask"
    )
    steps_scale: bool = described(False, _STEPS_SCALE, group="Mask")
    resample: int = described(
        1, "Take each step so many times, so that the new suits the rest better.", least=1, most=100, group="Mask"
    )
    resample_jump: int = described(1, _JUMP, least=1, most=1000, group="Mask")


@dataclass(frozen=True, eq=False, kw_only=True)
class OutpaintSettings:
    """On which sides a picture is extended, and how."""

    left: int = described(0, "New pixels on the left.", least=0, most=2**14, group="Sides")
    top: int = described(0, "New pixels above.", least=0, most=2**14, group="Sides")
    right: int = described(0, "New pixels on the right.", least=0, most=2**14, group="Sides")
    bottom: int = described(0, "New pixels below.", least=0, most=2**14, group="Sides")
    feather: int = described(
        4, "Over so many of the new pixels, they fade into the picture.", least=0, most=1024, group="Sides"
    )
    strength: float = described(
        1.0,
        "How far the new part leaves the colours of the picture's edge, of which it is made at first: 1 wholly.",
        least=0,
        most=1,
        group="Sides",
    )
    steps_scale: bool = described(False, _STEPS_SCALE, group="Sides")
    resample: int = described(
        1, "Take each step so many times, so that the new suits the picture better.", least=1, most=100, group="Sides"
    )
    resample_jump: int = described(1, _JUMP, least=1, most=1000, group="Sides")
