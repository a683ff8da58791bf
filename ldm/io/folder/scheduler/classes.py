"""The table of diffusers' scheduler classes (0.36 to 0.42): what each reads, and which values we have an equal for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SPACINGS = ("leading", "trailing", "linspace")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

SIGMA_FLAGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta_sigmas",
}
"""Field -> our schedule."""

TABLE_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
"""The fields of the discrete process, and what most classes take where they are missing."""

_SD_RANGE = {"beta_start": 0.00085, "beta_end": 0.012}
_LATENT_CONSISTENCY = {**_SD_RANGE, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class SchedulerClass:
    """One of diffusers' classes.

    Attributes:
        sampler: ours, for the default values of the class.
        spacing: its default `timestep_spacing`; None for those of distilled models, which have their own.
        any_spacing: whether it reads `timestep_spacing`; `spacing` is all it has where not.
        process: discrete | edm | flow.
        sigmas: whether it reads `use_karras_sigmas` and its like.
        zero_snr: whether it reads `rescale_betas_zero_snr`.
        end: the field that decides whether noise is left at the end, `always`, or None for never.
        end_default: what it takes where that field is missing.
        defaults: where its defaults differ from `TABLE_DEFAULTS`, or are not among the `fixed` values.
        fixed: fields of which we have only these values.
    """

    sampler: str
    spacing: str | None
    any_spacing: bool = True
    process: str = "discrete"
    sigmas: bool = False
    zero_snr: bool = False
    end: str | None = None
    end_default: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_NO_THRESHOLDING: dict[str, tuple[Any, ...]] = {"thresholding": (False,)}
_NO_FLOW: dict[str, tuple[Any, ...]] = {"use_flow_sigmas": (False, None), "use_dynamic_shifting": (False,)}
_ANY_SOLVER_TYPE = ("midpoint", "heun", "logrho", "bh1", "bh2")  # each class takes the others' for its own default
_SOLVER: dict[str, tuple[Any, ...]] = {
    **_NO_THRESHOLDING,
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
    "solver_type": _ANY_SOLVER_TYPE,
}
_EDM: dict[str, Any] = {
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "sigma_schedule": "karras",
}
_EDM_FIXED: dict[str, tuple[Any, ...]] = {
    "sigma_data": (1.0,),
    "prediction_type": ("v_prediction",),
    "sigma_schedule": ("karras", "exponential"),
    "final_sigmas_type": ("zero",),
}
_DISTILLED_FIXED: dict[str, tuple[Any, ...]] = {**_NO_THRESHOLDING, "timestep_scaling": (10.0,)}

CLASSES: dict[str, SchedulerClass] = {
    "DDIMScheduler": SchedulerClass(
        "ddim", "leading", zero_snr=True, end="set_alpha_to_one", end_default=True, fixed=_NO_THRESHOLDING
    ),
    "DDPMScheduler": SchedulerClass(
        "ddpm", "leading", zero_snr=True, fixed={**_NO_THRESHOLDING, "variance_type": ("fixed_small",)}
    ),
    "PNDMScheduler": SchedulerClass(
        "plms",
        "leading",
        end="set_alpha_to_one",
        end_default=False,
        defaults={"skip_prk_steps": False},
        fixed={"skip_prk_steps": (True,)},
    ),
    "EulerDiscreteScheduler": SchedulerClass(
        "euler",
        "linspace",
        sigmas=True,
        zero_snr=True,
        end="final_sigmas_type",
        end_default="zero",
        fixed={
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete", "continuous"),
            "final_sigmas_type": ("zero", "sigma_min"),
        },
    ),
    "EulerAncestralDiscreteScheduler": SchedulerClass("euler_ancestral", "linspace", zero_snr=True),
    "HeunDiscreteScheduler": SchedulerClass("heun", "linspace", sigmas=True, defaults=_SD_RANGE),
    "KDPM2DiscreteScheduler": SchedulerClass("dpm2", "linspace", sigmas=True, defaults=_SD_RANGE),
    "KDPM2AncestralDiscreteScheduler": SchedulerClass("dpm2_ancestral", "linspace", sigmas=True, defaults=_SD_RANGE),
    "LMSDiscreteScheduler": SchedulerClass("lms", "linspace", sigmas=True),
    "DPMSolverSDEScheduler": SchedulerClass(
        "dpmpp_sde", "linspace", sigmas=True, defaults=_SD_RANGE, fixed={"noise_sampler_seed": (None,)}
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        "dpmpp_2m",
        "linspace",
        sigmas=True,
        zero_snr=True,
        end="final_sigmas_type",
        end_default="zero",
        fixed={
            **_SOLVER,
            **_NO_FLOW,
            "final_sigmas_type": ("zero", "sigma_min"),
            "variance_type": (None,),
            "lambda_min_clipped": (float("-inf"), "-inf", "-Infinity"),
        },
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        "dpmpp_2s",
        "linspace",
        any_spacing=False,
        sigmas=True,
        end="final_sigmas_type",
        end_default="zero",
        fixed={
            **_NO_THRESHOLDING,
            **_NO_FLOW,
            "solver_order": (2, 1, 3),
            "algorithm_type": ("dpmsolver++", "deis"),
            "solver_type": _ANY_SOLVER_TYPE,
            "final_sigmas_type": ("zero", "sigma_min"),
            "variance_type": (None,),
            "lambda_min_clipped": (float("-inf"), "-inf", "-Infinity"),
        },
    ),
    "UniPCMultistepScheduler": SchedulerClass(
        "unipc",
        "linspace",
        sigmas=True,
        zero_snr=True,
        end="final_sigmas_type",
        end_default="zero",
        fixed={
            **_NO_THRESHOLDING,
            "solver_order": (2, 1, 3),
            "solver_type": _ANY_SOLVER_TYPE,
            "predict_x0": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
            "final_sigmas_type": ("zero", "sigma_min"),
            "use_dynamic_shifting": (False,),
            "shift_terminal": (None,),
        },
    ),
    "DEISMultistepScheduler": SchedulerClass(
        "deis",
        "linspace",
        sigmas=True,
        end="always",
        fixed={
            **_NO_THRESHOLDING,
            **_NO_FLOW,
            "solver_order": (2, 1, 3),
            "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),
            "solver_type": _ANY_SOLVER_TYPE,
        },
    ),
    "LCMScheduler": SchedulerClass("lcm", None, zero_snr=True, defaults=_LATENT_CONSISTENCY, fixed=_DISTILLED_FIXED),
    "TCDScheduler": SchedulerClass(
        "tcd", None, zero_snr=True, end="always", defaults=_LATENT_CONSISTENCY, fixed=_DISTILLED_FIXED
    ),
    "EDMEulerScheduler": SchedulerClass("euler", None, process="edm", defaults=_EDM, fixed=_EDM_FIXED),
    "EDMDPMSolverMultistepScheduler": SchedulerClass(
        "dpmpp_2m", None, process="edm", defaults=_EDM, fixed={**_EDM_FIXED, **_SOLVER}
    ),
    "FlowMatchEulerDiscreteScheduler": SchedulerClass(
        "euler",
        None,
        process="flow",
        fixed={
            "use_dynamic_shifting": (False,),
            "invert_sigmas": (False,),
            "shift_terminal": (None,),
            "stochastic_sampling": (False,),
            **dict.fromkeys(SIGMA_FLAGS, (False, None)),
        },
    ),
    "FlowMatchHeunDiscreteScheduler": SchedulerClass("heun", None, process="flow"),
}

# Read by diffusers only together with a field that we refuse, or changed by Stable Diffusion's pipeline.
_WITHOUT_EFFECT = (
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "max_image_seq_len",
    "max_shift",
    "sample_max_value",
    "steps_offset",
    "time_shift_type",
)
_READ_SOMEWHERE = (
    "euler_at_final",
    "flow_shift",
    "lower_order_final",
    "original_inference_steps",
    "rho",
    "set_alpha_to_one",
    "shift",
    "sigma_max",
    "sigma_min",
    "timestep_spacing",
    "use_flow_sigmas",
    "use_lu_lambdas",
)
KNOWN_FIELDS = frozenset(
    {*TABLE_DEFAULTS, *SIGMA_FLAGS, *_WITHOUT_EFFECT, *_READ_SOMEWHERE}
    | {name for entry in CLASSES.values() for name in entry.fixed}
)
"""All fields that some class has. A class ignores, as in diffusers, what only others have."""
