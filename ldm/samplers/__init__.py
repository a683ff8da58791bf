"""Samplers: pure generators that walk x down a grid of times.

Each is a function `(denoise, x, grid, noise, *, own options) -> Iterator[Step]` without state that serves every
process. Progress, previews, cancelling and grad mode belong to whoever runs the generator. `table` says what there is
without importing any of it; no module may bear the name of a function, which would hide it.
"""

from typing import TYPE_CHECKING, Any

from ldm.samplers.table import SAMPLER_TABLE, SamplerInfo

if TYPE_CHECKING:
    from ldm.samplers.adams import deis, gradient_estimation, ipndm, ipndm_v, lms, plms
    from ldm.samplers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral, euler_ancestral
    from ldm.samplers.by_name import INVERSIONS, SAMPLERS, Sampler, make_sampler
    from ldm.samplers.consistency import lcm, tcd
    from ldm.samplers.ddim_ddpm import ddim, ddim_inversion, ddpm
    from ldm.samplers.dpmpp import dpmpp_2m
    from ldm.samplers.edm import dpm2, euler, heun, heunpp2
    from ldm.samplers.extended_sde import er_sde
    from ldm.samplers.predictor_corrector import unipc
    from ldm.samplers.restart_sampling import restart
    from ldm.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
    from ldm.samplers.singlestep import dpm_fast, dpmpp_2s
    from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of

__all__ = [
    "INVERSIONS",
    "SAMPLERS",
    "SAMPLER_TABLE",
    "Noise",
    "NoiseLevel",
    "Sampler",
    "SamplerInfo",
    "Step",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "deis",
    "dpm2",
    "dpm2_ancestral",
    "dpm_fast",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "er_sde",
    "euler",
    "euler_ancestral",
    "gradient_estimation",
    "heun",
    "heunpp2",
    "ipndm",
    "ipndm_v",
    "lcm",
    "levels_of",
    "lms",
    "make_sampler",
    "plms",
    "restart",
    "tcd",
    "unipc",
]


def __getattr__(name: str) -> Any:
    """Import the functions, and torch with them, only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldm.samplers import by_name, step

    return getattr(by_name if hasattr(by_name, name) else step, name)
