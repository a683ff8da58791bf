"""What is known about each sampler, for those who choose one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerInfo:
    """One line of the table of samplers.

    Attributes:
        order: the error falls as this power of the number of steps, with the sampler's own defaults, between levels of
            finite lambda; from pure noise it is at most 2. For stochastic samplers, with their noise switched off, or
            of the distribution (`ddpm`). 0 for `lcm`, which trusts its network and solves nothing.
        calls: network calls a step; two-call samplers save one in a step from alpha = 0 or to sigma = 0.
        noise: what it draws on its way, with its own defaults. `none`; `same`, if a seed means the same noise for any
            number of steps, so that its pictures approach one; or `fresh`, if another number is another picture.
        advice: when to use it, one clause.
    """

    order: int
    calls: int
    noise: str
    advice: str

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise."""
        return self.noise != "none"


SAMPLER_TABLE: dict[str, SamplerInfo] = {
    "ddim": SamplerInfo(1, 1, "none", "to compare with others, to invert, and with eta > 0 for some noise"),
    "ddim_inversion": SamplerInfo(1, 1, "none", "from a picture to the noise that ddim draws it from"),
    "ddpm": SamplerInfo(1, 1, "fresh", "hundreds of steps, as models are trained"),
    "deis": SamplerInfo(2, 1, "none", "10 to 20 steps, beside dpmpp_2m"),
    "dpm2": SamplerInfo(2, 2, "none", "many steps that should be precise; slower and smoother than dpmpp_2m"),
    "dpm2_ancestral": SamplerInfo(2, 2, "fresh", "variety, 30 steps and more"),
    "dpmpp_2m": SamplerInfo(2, 1, "none", "the first choice: 15 to 30 steps"),
    "dpmpp_2m_sde": SamplerInfo(2, 1, "same", "fine texture, 25 to 50 steps"),
    "dpmpp_2s_ancestral": SamplerInfo(
        2, 2, "fresh", "variety with more detail than euler_ancestral, 20 steps and more"
    ),
    "dpmpp_3m_sde": SamplerInfo(2, 1, "same", "fine texture, 40 steps and more"),
    "dpmpp_sde": SamplerInfo(2, 2, "same", "fine texture in few steps, 10 to 20"),
    "euler": SamplerInfo(1, 1, "none", "flow models, and whenever nothing may go wrong"),
    "euler_ancestral": SamplerInfo(1, 1, "fresh", "variety and soft pictures, 20 to 40 steps"),
    "heun": SamplerInfo(2, 2, "none", "precise references, 20 steps and more"),
    "lcm": SamplerInfo(0, 1, "fresh", "consistency-distilled models, 2 to 8 steps"),
    "lms": SamplerInfo(2, 1, "none", "fine grids without jumps, 30 steps and more"),
    "plms": SamplerInfo(2, 1, "none", "pictures of Stable Diffusion 1 as first published, 50 steps"),
    "restart": SamplerInfo(2, 2, "same", "the best picture for many calls: noise that forgets earlier errors"),
    "tcd": SamplerInfo(1, 1, "fresh", "trajectory-consistency-distilled models, 4 to 20 steps"),
    "unipc": SamplerInfo(2, 1, "none", "5 to 15 steps"),
}
