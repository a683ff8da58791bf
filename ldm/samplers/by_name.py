"""The functions of the table of samplers."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ldm.naming import OptionValue, check_options, look_up
from ldm.samplers.adams import deis, gradient_estimation, ipndm, ipndm_v, lms, plms
from ldm.samplers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral, euler_ancestral
from ldm.samplers.consistency import lcm, tcd
from ldm.samplers.ddim_ddpm import ddim, ddim_inversion, ddpm
from ldm.samplers.dpmpp import dpmpp_2m
from ldm.samplers.edm import dpm2, euler, heun, heunpp2
from ldm.samplers.extended_sde import er_sde
from ldm.samplers.predictor_corrector import unipc
from ldm.samplers.restart_sampling import restart
from ldm.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from ldm.samplers.singlestep import dpm_fast, dpmpp_2s
from ldm.samplers.step import Step
from ldm.samplers.table import SAMPLER_TABLE

Sampler = Callable[..., Iterator[Step]]
"""(denoise, x (B, C, h, w), grid (n + 1,), noise, *, own options) -> Iterator[Step]."""

_FUNCTIONS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddim_inversion": ddim_inversion,
    "ddpm": ddpm,
    "deis": deis,
    "dpm2": dpm2,
    "dpm2_ancestral": dpm2_ancestral,
    "dpm_fast": dpm_fast,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "dpmpp_sde": dpmpp_sde,
    "er_sde": er_sde,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "gradient_estimation": gradient_estimation,
    "heun": heun,
    "heunpp2": heunpp2,
    "ipndm": ipndm,
    "ipndm_v": ipndm_v,
    "lcm": lcm,
    "lms": lms,
    "plms": plms,
    "restart": restart,
    "tcd": tcd,
    "unipc": unipc,
}

SAMPLERS = {name: _FUNCTIONS[name] for name, info in SAMPLER_TABLE.items() if not info.inverts}
"""The samplers that walk from noise to picture, by name."""

INVERSIONS = {name: _FUNCTIONS[name] for name, info in SAMPLER_TABLE.items() if info.inverts}
"""Those that walk the same grid from its end, from picture to noise."""


def make_sampler(name: str, options: Mapping[str, OptionValue] | None = None) -> Sampler:
    """A sampler by name, with its own options filled in.

    Args:
        name: a key of `SAMPLERS` or `INVERSIONS`.
        options: e.g. `{"eta": 0.5}` for `ddim`.

    Raises:
        ValueError: an unknown name or option; offers the nearest.
    """
    sampler = INVERSIONS[name] if name in INVERSIONS else look_up("sampler", name, SAMPLERS)
    check_options(f"sampler {name!r}", sampler, options or {})
    return partial(sampler, **options) if options else sampler
