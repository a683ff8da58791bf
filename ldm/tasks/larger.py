"""The settings of the tasks that make pictures larger, each once; light to import, as `ldm.generation.request` is."""

from dataclasses import dataclass

from ldm.generation.setting import described

ENLARGED = ("picture", "latent")
_STRENGTH = "How much the enlarged picture is changed, as a share of the schedule: 0 nothing, 1 all."
_STEPS_SCALE = "Take only the strength's share of the steps, in place of as many steps as were requested."
_RESIDUAL = "Hold the noisy picture to the enlarged one, less and less (DemoFusion); keeps what large pictures repeat."


@dataclass(frozen=True, eq=False, kw_only=True)
class HiresSettings:
    """How a picture is generated in two passes."""

    scale: float = described(
        2.0,
        "Generate a picture so many times smaller first, then enlarge it and generate its detail in tiles.",
        flag="--hires",
        otherwise="off",
        least=1,
        most=16,
        group="Larger pictures",
    )
    enlarge: str = described(
        "picture",
        "What is enlarged in between: the decoded picture, or the latent, which is faster and needs more strength.",
        flag="--hires-enlarge",
        choices=ENLARGED,
        group="Larger pictures",
    )
    strength: float = described(0.4, _STRENGTH, flag="--hires-strength", least=0, most=1, group="Larger pictures")
    steps_scale: bool = described(False, _STEPS_SCALE, flag="--hires-steps-scale", group="Larger pictures")
    residual: bool = described(False, _RESIDUAL, flag="--hires-residual", group="Larger pictures")


@dataclass(frozen=True, eq=False, kw_only=True)
class UpscaleSettings:
    """How a picture is enlarged."""

    by: int | None = described(
        None, "How many times larger.", otherwise="4 by models for upscaling, else 2", least=1, most=16, group="Upscale"
    )
    strength: float | None = described(None, _STRENGTH, otherwise="0.4", least=0, most=1, group="Upscale")
    steps_scale: bool = described(False, _STEPS_SCALE, group="Upscale")
    residual: bool = described(False, _RESIDUAL, group="Upscale")
    consistent: bool = described(
        False,
        "Correct the colours until the result, made small again, is the picture; for pictures without noise.",
        group="Upscale",
    )
    noise_level: int | None = described(
        None,
        "Noise put into the picture for models for upscaling; more invents more.",
        otherwise="20",
        least=0,
        most=999,
        group="Upscale",
    )
