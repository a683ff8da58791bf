"""The table of samplers: their names here and in other tools, and what is known about each. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerInfo:
    """One line of the table of samplers.

    Attributes:
        label: as A1111's menu (or that of its forks) names it.
        order: the error falls as this power of the number of steps, with the sampler's own defaults, between levels of
            finite lambda; from pure noise it is at most 2. For stochastic samplers, with their noise switched off, or
            of the distribution (`ddpm`). 0 for `lcm`, which trusts its network and solves nothing.
        calls: network calls a step, fewer where a step begins at alpha = 0 or a stage would lie at sigma = 0.
        noise: what it draws on its way, with its own defaults. `none`; `same`, if a seed means the same noise for any
            number of steps, so that its pictures approach one; or `fresh`, if another number is another picture.
        advice: when to use it, one clause.
        diffusers: diffusers' classes that do the same.
        cfg_plus_plus: whether CFG++ is defined for it: its step is alpha' x0 + sigma' eps, some of it perhaps drawn
            anew. The others lean on x, or on differences of eps or x0, in which a renoising with another eps has no
            meaning; there CFG++ would be plain guidance with a scale that is too small.
        inverts: whether it walks the grid from its end, from picture to noise.
    """

    label: str
    order: int
    calls: int
    noise: str
    advice: str
    diffusers: tuple[str, ...] = ()
    cfg_plus_plus: bool = False
    inverts: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise."""
        return self.noise != "none"


# fmt: off
SAMPLER_TABLE: dict[str, SamplerInfo] = {
    "ddim": SamplerInfo("DDIM", 1, 1, "none", "to compare with others, to invert, and with eta > 0 for some noise",
        ("DDIMScheduler",), cfg_plus_plus=True),
    "ddim_inversion": SamplerInfo("DDIM Inversion", 1, 1, "none", "from a picture to the noise that ddim draws it from",
        ("DDIMInverseScheduler",), inverts=True),
    "ddpm": SamplerInfo("DDPM", 1, 1, "fresh", "hundreds of steps, as models are trained", ("DDPMScheduler",)),
    "deis": SamplerInfo("DEIS", 2, 1, "none", "10 to 20 steps, beside dpmpp_2m", ("DEISMultistepScheduler",)),
    "dpm2": SamplerInfo("DPM2", 2, 2, "none", "many steps that should be precise; slower and smoother than dpmpp_2m",
        ("KDPM2DiscreteScheduler",)),
    "dpm2_ancestral": SamplerInfo("DPM2 a", 2, 2, "fresh", "variety, 30 steps and more",
        ("KDPM2AncestralDiscreteScheduler",)),
    "dpm_fast": SamplerInfo("DPM fast", 3, 1, "none", "few calls on the schedule exponential, 1 + 3 n steps"),
    "dpmpp_2m": SamplerInfo("DPM++ 2M", 2, 1, "none", "the first choice: 15 to 30 steps",
        ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler")),
    "dpmpp_2m_sde": SamplerInfo("DPM++ 2M SDE", 2, 1, "same", "fine texture, 25 to 50 steps",
        ("DPMSolverMultistepScheduler sde-dpmsolver++",)),
    "dpmpp_2s": SamplerInfo("DPM++ 2S", 2, 1, "none", "10 to 30 steps, beside dpmpp_2m; InvokeAI's dpmpp_2s",
        ("DPMSolverSinglestepScheduler",)),
    "dpmpp_2s_ancestral": SamplerInfo("DPM++ 2S a", 2, 2, "fresh",
        "variety with more detail than euler_ancestral, 20 steps and more"),
    "dpmpp_3m_sde": SamplerInfo("DPM++ 3M SDE", 2, 1, "same", "fine texture, 40 steps and more"),
    "dpmpp_sde": SamplerInfo("DPM++ SDE", 2, 2, "same", "fine texture in few steps, 10 to 20",
        ("DPMSolverSDEScheduler",)),
    "er_sde": SamplerInfo("ER SDE", 2, 1, "same", "fine texture with less new noise than dpmpp_2m_sde, 15 to 30 steps"),
    "euler": SamplerInfo("Euler", 1, 1, "none", "flow models, and whenever nothing may go wrong",
        ("EDMEulerScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"), cfg_plus_plus=True),
    "euler_ancestral": SamplerInfo("Euler a", 1, 1, "fresh", "variety and soft pictures, 20 to 40 steps",
        ("EulerAncestralDiscreteScheduler",), cfg_plus_plus=True),
    "gradient_estimation": SamplerInfo("Gradient Estimation", 1, 1, "none", "10 to 20 steps, beside euler"),
    "heun": SamplerInfo("Heun", 2, 2, "none", "precise references, 20 steps and more",
        ("FlowMatchHeunDiscreteScheduler", "HeunDiscreteScheduler")),
    "heunpp2": SamplerInfo("HeunPP2", 1, 3, "none", "repeating pictures of other tools"),
    "ipndm": SamplerInfo("IPNDM", 2, 1, "none", "10 to 30 steps on even schedules"),
    "ipndm_v": SamplerInfo("IPNDM_V", 2, 1, "none", "10 to 30 steps on any schedule"),
    "lcm": SamplerInfo("LCM", 0, 1, "fresh", "consistency-distilled models, 2 to 8 steps", ("LCMScheduler",)),
    "lms": SamplerInfo("LMS", 2, 1, "none", "fine grids without jumps, 30 steps and more", ("LMSDiscreteScheduler",)),
    "plms": SamplerInfo("PLMS", 2, 1, "none", "pictures of Stable Diffusion 1 as first published, 50 steps",
        ("PNDMScheduler",)),
    "restart": SamplerInfo("Restart", 2, 2, "same",
        "the best picture for many calls: noise that forgets earlier errors"),
    "tcd": SamplerInfo("TCD", 1, 1, "fresh", "trajectory-consistency-distilled models, 4 to 20 steps",
        ("TCDScheduler",)),
    "unipc": SamplerInfo("UniPC", 2, 1, "none", "5 to 15 steps", ("UniPCMultistepScheduler",)),
}
# fmt: on
"""All samplers by name; `ldm.samplers.by_name` has their functions."""
