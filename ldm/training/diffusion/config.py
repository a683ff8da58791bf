"""The settings of a denoiser's objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ldm.denoiser import PREDICTION_TYPES, check_prediction_type
from ldm.naming import look_up
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers.table import SAMPLER_TABLE
from ldm.schedules import SCHEDULES
from ldm.training.diffusion.times import TIME_SAMPLING
from ldm.training.diffusion.weighting import WEIGHTINGS, WeightNumbers
from ldm.training.objectives.concat_conditions import CONCAT_CONDITIONS


@dataclass(frozen=True)
class DiffusionConfig:
    """How noise is added, what the network predicts and how errors are weighed. All choices combine freely.

    Attributes:
        process: `vp` (the table of betas below), `flow` (rectified flow) or `edm` (Karras et al. 2022).
        prediction_type: epsilon, v_prediction, sample (the clean latent) or flow. `v_prediction` with `process: edm`
            is the preconditioning of Karras et al. (c_skip, c_out, c_in) for data of deviation 1, as latents have.
        beta_schedule, beta_start, beta_end, zero_terminal_snr: of `vp`, in diffusers' terms; the last rescales the
            table so that it ends in pure noise (Lin et al. 2024, algorithm 1).
        num_train_timesteps: length of the table, and of the axis of time in the other processes.
        shift: of `flow`: above 1, more of the time is spent at high noise (Esser et al. 2024, eq. 23).
        sigma_min, sigma_max: of `edm`.
        time_sampling: `uniform`, `logit_normal` or `log_normal` (see `ldm.training.diffusion.times`).
        time_mean, time_std: of the normal distribution in the last two.
        stratified: spread the times of every batch evenly over their distribution.
        weighting: constant, min_snr, soft_min_snr, p2, debiased or edm (see `ldm.training.diffusion.weighting`).
        min_snr_gamma: where `min_snr` and `soft_min_snr` stop growing with the SNR.
        p2_k, p2_gamma: of `p2`.
        offset_noise: deviation of a constant per channel added to the noise; 0 for none, usually up to 0.1.
        pyramid_discount: strength of each coarser level of noise against the one before; 0 for none, below 1.
        input_perturbation: noise that only the network's input gets, not its target; 0 for none, usually 0.1.
        condition_dropout: share of samples trained without their caption and label, for classifier-free guidance.
        concat: channels beside the latent: empty, inpainting, low_resolution or edge.
        noise_levels: of `concat: low_resolution`, which is noised to one of so many first levels of 1000.
        guidance_scale, steps: of the previews, and the defaults of the exported model.
        sampler, schedule: defaults of the exported model; empty for those of the process in diffusers.
    """

    process: str = "vp"
    prediction_type: str = "v_prediction"
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    zero_terminal_snr: bool = True
    shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    time_sampling: str = "uniform"
    time_mean: float = 0.0
    time_std: float = 1.0
    stratified: bool = True
    weighting: str = "min_snr"
    min_snr_gamma: float = 5.0
    p2_k: float = 1.0
    p2_gamma: float = 1.0
    offset_noise: float = 0.0
    pyramid_discount: float = 0.0
    input_perturbation: float = 0.0
    condition_dropout: float = 0.1
    concat: str = ""
    noise_levels: int = 350
    guidance_scale: float = 4.0
    steps: int = 25
    sampler: str = ""
    schedule: str = ""

    def __post_init__(self) -> None:
        tables: dict[str, Mapping[str, object]] = {
            "process": PROCESSES,
            "prediction_type": dict.fromkeys(PREDICTION_TYPES),
            "time_sampling": TIME_SAMPLING,
            "weighting": WEIGHTINGS,
            "concat": {"": None, **CONCAT_CONDITIONS},
            "sampler": {"": None, **SAMPLER_TABLE},
            "schedule": {"": None, **SCHEDULES},
        }
        for name, table in tables.items():
            look_up(f"diffusion.{name}", getattr(self, name), table)
        for name in ("condition_dropout", "pyramid_discount"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"diffusion.{name}={getattr(self, name)} is a share: use 0 to below 1")
        for name in ("offset_noise", "input_perturbation"):
            if getattr(self, name) < 0:
                raise ValueError(f"diffusion.{name}={getattr(self, name)} is a deviation: use 0 or more")
        for name in ("time_std", "min_snr_gamma", "p2_k"):
            if not getattr(self, name) > 0:
                raise ValueError(f"diffusion.{name}={getattr(self, name)} must be above 0")
        if not 1 <= self.noise_levels <= 1000:
            raise ValueError(f"diffusion.noise_levels={self.noise_levels} is out of range; use 1 to 1000")
        check_prediction_type(self.prediction_type, self.make_process())

    def make_process(self) -> Process:
        """The noising process that these numbers describe."""
        return PROCESSES[self.process](self)

    @property
    def weight_numbers(self) -> WeightNumbers:
        """The numbers of the weightings."""
        return WeightNumbers(self.min_snr_gamma, self.p2_k, self.p2_gamma)

    @property
    def sampling(self) -> tuple[str, str]:
        """Sampler and schedule of the exported model, for which diffusers must have a scheduler."""
        own = {"vp": ("ddim", "trailing"), "edm": ("euler", "karras"), "flow": ("unipc", "linspace")}[self.process]
        return self.sampler or own[0], self.schedule or own[1]


PROCESSES: dict[str, Callable[[DiffusionConfig], Process]] = {
    "vp": lambda config: DiscreteVP(
        beta_schedule=config.beta_schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        num_train_timesteps=config.num_train_timesteps,
        zero_terminal_snr=config.zero_terminal_snr,
    ),
    "flow": lambda config: Flow(config.shift, config.num_train_timesteps),
    "edm": lambda config: EDM(config.sigma_min, config.sigma_max, num_train_timesteps=config.num_train_timesteps),
}
"""Name -> the process that a `DiffusionConfig` describes."""
