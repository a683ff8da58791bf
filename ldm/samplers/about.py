"""What is known about each sampler, for those who choose one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """One line of the table of samplers.

    Attributes:
        order: the error falls as this power of the number of steps, with the sampler's own defaults, between levels of
            finite lambda; from pure noise it is at most 2. For stochastic samplers, with their noise switched off, or
            of the distribution (`ddpm`). 0 for `lcm`, which trusts its network and solves nothing.
        calls: network calls a step; two-call samplers save one in a step from alpha = 0 or to sigma = 0.
        stochastic: whether it draws noise, with its own defaults.
        advice: when to use it, one clause.
    """

    order: int
    calls: int
    stochastic: bool
    advice: str


ABOUT: dict[str, About] = {
    "ddim": About(1, 1, False, "to compare with others, to invert, and with eta > 0 for some noise"),
    "ddim_inversion": About(1, 1, False, "from a picture to the noise that ddim draws it from"),
    "ddpm": About(1, 1, True, "hundreds of steps, as models are trained"),
    "deis": About(2, 1, False, "10 to 20 steps, beside dpmpp_2m"),
    "dpm2": About(2, 2, False, "many steps that should be precise; slower and smoother than dpmpp_2m"),
    "dpm2_ancestral": About(2, 2, True, "variety, 30 steps and more"),
    "dpmpp_2m": About(2, 1, False, "the first choice: 15 to 30 steps"),
    "dpmpp_2m_sde": About(2, 1, True, "fine texture, 25 to 50 steps"),
    "dpmpp_2s_ancestral": About(2, 2, True, "variety with more detail than euler_ancestral, 20 steps and more"),
    "dpmpp_3m_sde": About(2, 1, True, "fine texture, 40 steps and more"),
    "dpmpp_sde": About(2, 2, True, "fine texture in few steps, 10 to 20"),
    "euler": About(1, 1, False, "flow models, and whenever nothing may go wrong"),
    "euler_ancestral": About(1, 1, True, "variety and soft pictures, 20 to 40 steps"),
    "heun": About(2, 2, False, "precise references, 20 steps and more"),
    "lcm": About(0, 1, True, "consistency-distilled models, 2 to 8 steps"),
    "lms": About(2, 1, False, "fine grids without jumps, 30 steps and more"),
    "plms": About(2, 1, False, "pictures of Stable Diffusion 1 as first published, 50 steps"),
    "restart": About(2, 2, True, "the best picture for many calls: noise that forgets earlier errors"),
    "tcd": About(1, 1, True, "trajectory-consistency-distilled models, 4 to 20 steps"),
    "unipc": About(2, 1, False, "5 to 15 steps"),
}
