"""The names that samplers and schedules have in other tools: ComfyUI, A1111's web UI, diffusers.

Names are compared without case, spaces, hyphens and underscores, and with `++` as `pp`, so that `DPM++ 2M` and
`dpmpp_2m` are one. A schedule may follow the sampler's name, as in `DPM++ 2M Karras`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ldm.naming import nearest
from ldm.samplers.table import SAMPLER_TABLE

Option = int | float | bool | str

SAMPLER_LABELS = {name: info.label for name, info in SAMPLER_TABLE.items()}
"""All our samplers, as A1111's menu (or that of its forks) names them."""

SCHEDULE_LABELS = {
    "leading": "Leading",
    "trailing": "Trailing",
    "linspace": "Linspace",
    "normal": "Normal",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "beta": "Beta",
    "beta_sigmas": "Beta Sigmas",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    "gits": "Align Your Steps GITS",
    "linear_quadratic": "Linear Quadratic",
}
"""All our schedules, as A1111's menu or Forge's names them; the first three and `Beta Sigmas` they do not have."""

# Other names of samplers: ComfyUI's, then diffusers' (which `ldm.io.folder.scheduler` reads with all their fields).
_SAMPLERS: dict[str, tuple[str, dict[str, Option]]] = {
    "dpm_2": ("dpm2", {}),
    "kdpm_2": ("dpm2", {}),  # InvokeAI's
    "kdpm_2_a": ("dpm2_ancestral", {}),
    "dpm_2_a": ("dpm2_ancestral", {}),
    "euler_a": ("euler_ancestral", {}),
    "dpmpp_3m": ("dpmpp_3m_sde", {"eta": 0.0}),
    "pndm": ("plms", {}),
    "ddim_v3": ("ddim", {}),  # NovelAI's
    "dpm_2_ancestral": ("dpm2_ancestral", {}),
    "dpmpp_sde_gpu": ("dpmpp_sde", {}),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", {}),
    "dpmpp_2m_sde_heun": ("dpmpp_2m_sde", {"solver_type": "heun"}),
    "dpmpp_2m_sde_heun_gpu": ("dpmpp_2m_sde", {"solver_type": "heun"}),
    "dpmpp_3m_sde_gpu": ("dpmpp_3m_sde", {}),
    "res_multistep": ("dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.0, "lower_order_final": False}),
    "uni_pc": ("unipc", {"solver_type": "bh1"}),
    "uni_pc_bh2": ("unipc", {}),
    **{spelling: (name, {}) for name, info in SAMPLER_TABLE.items() for spelling in info.diffusers},
}

_SCHEDULES = {
    "ddim": "leading",  # A1111
    "ddim_uniform": "leading",  # ComfyUI
    "uniform": "normal",  # A1111
    "ays": "align_your_steps",
    "ays_11": "align_your_steps",
    "align_your_steps_11": "align_your_steps",  # Forge's: the same table
    "ays_gits": "gits",
    "k": "karras",  # the end of InvokeAI's names
    "ka": "karras",  # the end of A1111's short names, as its API takes them
    "exp": "exponential",
    "native": "normal",  # NovelAI's
    "turbo": "trailing",  # Forge's, and ComfyUI's for SD Turbo: round(1000 i / n) - 1
    "sigmas": "sigmas",  # lists that someone wrote down
    "timesteps": "timesteps",
    "use_karras_sigmas": "karras",  # diffusers' fields
    "use_exponential_sigmas": "exponential",
    "use_lu_lambdas": "exponential",
    "use_beta_sigmas": "beta_sigmas",
}

# What other tools have and we have not: what is nearest here, and how it differs.
_NEAREST_SAMPLERS = {
    "dpm_adaptive": ("dpm_fast", "its steps would depend on the other pictures of a batch; these are as many as named"),
    "dpmpp_2s_a_rf": ("dpmpp_2s_ancestral", "which draws more noise on flow models"),
    "exp_heun_2_x0": ("heun", "which takes the mean of eps, not of x0"),
    "exp_heun_2_x0_sde": ("dpmpp_sde", "whose second call is in the middle of the step"),
    "res_multistep_ancestral": ("dpmpp_2m_sde_heun", "the same rule with the noise of the reverse SDE"),
    "sa_solver": ("dpmpp_2m_sde", "which has no corrector"),
    "sa_solver_pece": ("dpmpp_2m_sde", "which has no corrector"),
    "seeds_2": ("dpmpp_sde", "whose two stages share their noise in another way"),
    "seeds_3": ("dpmpp_sde", "which has two stages"),
}
_NEAREST_SCHEDULES = {
    "align_your_steps_32": ("align_your_steps", "which lies between the 10 published steps"),
    "ays_32": ("align_your_steps", "which lies between the 10 published steps"),
}
OWN_SCHEDULES = {"dpm_fast": "exponential"}
"""Samplers that walk this schedule in k-diffusion, ComfyUI and A1111, whichever was chosen beside them."""

# What A1111's "Automatic" stands for (`scheduler` in modules/sd_samplers_kdiffusion.py, 1.10; else its plain grid).
_AUTOMATIC = {
    **dict.fromkeys(("dpmpp_2m", "dpmpp_sde", "dpmpp_2s_ancestral", "dpm2", "dpm2_ancestral", "restart"), "karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde", "dpm_fast"), "exponential"),
    **dict.fromkeys(("euler", "euler_ancestral", "heun", "lms"), "normal"),
    **dict.fromkeys(("ddim", "plms", "unipc"), "leading"),
}


@dataclass(frozen=True)
class Names:
    """Translates another tool's names of a sampler and a schedule into ours.

    Attributes:
        sampler: a key of `SAMPLER_LABELS`, or None where none was named.
        schedule: a key of `SCHEDULE_LABELS`, or None for the model's default.
        sampler_options: that the name of the sampler implies.
    """

    sampler: str | None = None
    schedule: str | None = None
    sampler_options: Mapping[str, Option] = field(default_factory=dict)


def resolve(sampler: str | None, schedule: str | None = None) -> Names:
    """Names of any tool -> ours.

    Args:
        sampler: `dpmpp_2m`, `DPM++ 2M Karras`, `Euler a`, `uni_pc`, `DPMSolverMultistepScheduler`, ...
        schedule: `karras`, `SGM Uniform`, `ddim_uniform`, `use_karras_sigmas`, or A1111's `Automatic`, which depends on
            the sampler. It wins over a schedule in the sampler's name.

    Raises:
        ValueError: an unknown name; offers the nearest.
    """
    name, options, implied = (None, {}, None) if sampler is None else _sampler(sampler)
    if schedule is None:
        return Names(name, implied, options)
    if _fold(schedule) == "automatic":
        return Names(name, implied or _AUTOMATIC.get(name or ""), options)
    return Names(name, _schedule(schedule), options)


def stand_in(kind: str, spelling: str) -> tuple[str, str] | None:
    """(what is nearest here to another tool's sampler or schedule, how it differs), or None where nothing is.

    Args:
        kind: `sampler` or `schedule`.
        spelling: a name that `resolve` refuses.
    """
    return _FOLDED_NEAREST[kind].get(_fold(_without_prefix(spelling)))


def a1111_names(sampler: str, schedule: str) -> tuple[str, str]:
    """(`Sampler`, `Schedule type`) for A1111's `parameters` text. Unknown names stay as they are."""
    return SAMPLER_LABELS.get(sampler, sampler), SCHEDULE_LABELS.get(schedule, schedule)


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold().replace("++", "pp"))


def _without_prefix(spelling: str) -> str:
    """A sampler's name without what k-diffusion, InvokeAI 2 and NovelAI put before it."""
    return spelling.strip().casefold().removeprefix("sample_").removeprefix("k_")


def _table(labels: Mapping[str, str], others: Iterable[str]) -> dict[str, str]:
    """Folded name -> the name it stands for; our own names win."""
    return {_fold(name): name for name in others} | {
        _fold(spelling): name for name, label in labels.items() for spelling in (name, label)
    }


_FOLDED_SAMPLERS = _table(SAMPLER_LABELS, _SAMPLERS)
_FOLDED_SCHEDULES = _table(SCHEDULE_LABELS, _SCHEDULES)
_FOLDED_NEAREST = {
    kind: {_fold(name): known for name, known in table.items()}
    for kind, table in (("sampler", _NEAREST_SAMPLERS), ("schedule", _NEAREST_SCHEDULES))
}
_LONGEST_FIRST = sorted((*_FOLDED_SCHEDULES, "automatic"), key=len, reverse=True)


def _sampler(spelling: str) -> tuple[str, Mapping[str, Option], str | None]:
    """(our sampler, its options, the schedule that is part of the name)."""
    exact = _without_prefix(spelling)
    folded = _fold(exact)
    if exact in _SAMPLERS:  # `uni_pc` and `unipc` fold to the same and differ
        return *_SAMPLERS[exact], None
    if folded in _FOLDED_SAMPLERS:
        return *_meaning(_FOLDED_SAMPLERS[folded]), None
    for ending in _LONGEST_FIRST:
        stem = folded.removesuffix(ending)
        if stem != folded and stem in _FOLDED_SAMPLERS:
            name, options = _meaning(_FOLDED_SAMPLERS[stem])
            if ending == "automatic":
                return name, options, _AUTOMATIC.get(name)
            return name, options, _SCHEDULES.get(_FOLDED_SCHEDULES[ending], _FOLDED_SCHEDULES[ending])
    if folded.endswith("cfgpp"):
        raise ValueError(f"unknown sampler {spelling!r}; CFG++ is a guidance here: combine it with 'euler' or 'ddim'")
    raise ValueError(f"unknown sampler {spelling!r}; {_hint('sampler', spelling, SAMPLER_LABELS, _SAMPLERS)}")


def _meaning(name: str) -> tuple[str, Mapping[str, Option]]:
    return _SAMPLERS.get(name, (name, {}))


def _schedule(spelling: str) -> str:
    name = _FOLDED_SCHEDULES.get(_fold(spelling))
    if name is None:
        raise ValueError(f"unknown schedule {spelling!r}; {_hint('schedule', spelling, SCHEDULE_LABELS, _SCHEDULES)}")
    return _SCHEDULES.get(name, name)


def _hint(kind: str, spelling: str, labels: Mapping[str, str], others: Iterable[str]) -> str:
    """What does nearly the same, the nearest of all spellings, or all our own names where none is near."""
    if (known := stand_in(kind, spelling)) is not None:
        return f"the nearest is {known[0]!r}, {known[1]}"
    hint = nearest(spelling, {*labels, *labels.values(), *others})
    return hint if hint.startswith("did you mean") else nearest(spelling, labels)
