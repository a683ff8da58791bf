"""Guidance by name and number: what users set, and the chain that follows from it."""

import math
from dataclasses import dataclass

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Denoiser
from ldm.guidance.attention import MIDDLE
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.cfg_plus_plus import CFG_PLUS_PLUS_SAMPLERS, CFGPlusPlus
from ldm.guidance.chain import GuidedDenoiser, fit_batch
from ldm.guidance.classifier_free import ClassifierFreeGuidance, check_reuse
from ldm.guidance.interval import WHOLE, Interval, check_finite, check_interval, check_share
from ldm.guidance.perp_neg import PerpNeg
from ldm.guidance.perturbed_attention import PerturbedAttentionGuidance
from ldm.guidance.picture import PictureGuidance
from ldm.guidance.projected import AdaptiveProjectedGuidance, check_apg
from ldm.guidance.rescale import Rescale
from ldm.guidance.smoothed_energy import SmoothedEnergyGuidance, check_blur
from ldm.guidance.thresholding import DynamicThresholding, StaticThresholding, check_clip, check_thresholding
from ldm.naming import look_up

METHODS = {
    "cfg": "classifier-free guidance",
    "cfg++": "CFG++, for ddim, euler and euler_ancestral, with a guidance_scale from 0 to 1",
    "apg": "adaptive projected guidance, for scales of 10 and more",
    "perp_neg": "negative prompts that take nothing from the prompt",
}
"""How the prompt and the negative prompt are put together."""


@dataclass(frozen=True)
class GuidanceSettings:
    """All of guidance in numbers; the defaults are no guidance at all, one network pass over the batch.

    Attributes:
        guidance_scale: 1 is off; for `cfg++` the paper's lambda, 0 to 1.
        guidance_method: a key of `METHODS`.
        guidance_rescale: 0 to 1, pulls the contrast back to the unguided one's; see `Rescale`.
        guidance_interval: the part of the way from noise (0) to picture (1) on which to guide, by whatever method;
            elsewhere a step costs one pass over the batch; or the name of a published one, `ldm.guidance.PRESETS`.
        guidance_reuse: run the negative prompt at every so many guided evaluations only, of `cfg`; 1 is always.
        apg_eta, apg_rescale, apg_momentum: of `apg`, see `AdaptiveProjectedGuidance`.
        perp_neg_scale: of `perp_neg`, the weight of the negative prompt.
        image_guidance_scale: of the picture that an InstructPix2Pix model sees; 1 is as strong as it learned it, see
            `PictureGuidance`.
        pag_scale, pag_applied_layers: see `PerturbedAttentionGuidance`; 0 is off, 3 is usual.
        seg_scale, seg_applied_layers, seg_blur_sigma: see `SmoothedEnergyGuidance`; 0 is off, 3 is usual.
        autoguidance_scale: away from a second, weaker model; 1 is off.
        thresholding, dynamic_thresholding_ratio, sample_max_value: see `DynamicThresholding`; for models of pixels.
        clip_sample_range: clip x0 to plus and minus this; None is off.

    Raises:
        ValueError: names the field that is out of range.
    """

    guidance_scale: float = 1.0
    guidance_method: str = "cfg"
    guidance_rescale: float = 0.0
    guidance_interval: Interval = WHOLE
    guidance_reuse: int = 1
    apg_eta: float = 0.0
    apg_rescale: float = 15.0
    apg_momentum: float = -0.5
    perp_neg_scale: float = 1.0
    image_guidance_scale: float = 1.0
    pag_scale: float = 0.0
    pag_applied_layers: tuple[str, ...] = MIDDLE
    seg_scale: float = 0.0
    seg_applied_layers: tuple[str, ...] = MIDDLE
    seg_blur_sigma: float = math.inf
    autoguidance_scale: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = math.inf
    clip_sample_range: float | None = None

    def __post_init__(self) -> None:
        look_up("guidance_method", self.guidance_method, METHODS)
        for name in (
            *("guidance_scale", "perp_neg_scale", "image_guidance_scale"),
            *("pag_scale", "seg_scale", "autoguidance_scale"),
        ):
            check_finite(name, getattr(self, name))
        if self.guidance_method == "cfg++" and not 0 <= self.guidance_scale <= 1:
            raise ValueError(
                f"guidance_scale={self.guidance_scale} must be between 0 and 1 with guidance_method='cfg++'; "
                "0.6 is about a scale of 7.5 of 'cfg'"
            )
        check_share("guidance_rescale", self.guidance_rescale)
        check_interval("guidance_interval", self.guidance_interval)
        check_reuse(self.guidance_reuse)
        if self.guidance_reuse > 1 and self.guidance_method != "cfg":
            raise ValueError(
                f"guidance_reuse={self.guidance_reuse} is for guidance_method='cfg', not {self.guidance_method!r}; "
                "leave out one of them"
            )
        check_apg(self.apg_eta, self.apg_rescale, self.apg_momentum)
        check_blur(self.seg_blur_sigma)
        check_thresholding(self.dynamic_thresholding_ratio, self.sample_max_value)
        if self.clip_sample_range is not None:
            check_clip(self.clip_sample_range)

    @property
    def needs_negative(self) -> bool:
        """Whether the negative prompt is looked at."""
        if self.image_guidance_scale != 1:
            return True
        if self.guidance_method == "perp_neg":
            return self.perp_neg_scale != 0
        return self.guidance_scale != 1 or self.guidance_method == "cfg++"

    @property
    def needs_empty(self) -> bool:
        """Whether the conditioning of the empty prompt is looked at."""
        return self.guidance_method == "perp_neg" and (self.needs_negative or self.guidance_scale != 1)

    def check_sampler(self, sampler: str) -> None:
        """Refuse guidance that has no meaning for the sampler.

        Raises:
            ValueError: names both.
        """
        if self.guidance_method == "cfg++" and sampler not in CFG_PLUS_PLUS_SAMPLERS:
            raise ValueError(
                f"guidance_method='cfg++' is not defined for sampler={sampler!r}; "
                f"use {' or '.join(CFG_PLUS_PLUS_SAMPLERS)}"
            )


def guide(
    denoiser: ConditionalDenoiser,
    negative: Conditioning | None,
    settings: GuidanceSettings,
    *,
    empty: Conditioning | None = None,
    weak: ConditionalDenoiser | None = None,
) -> Denoiser:
    """The denoiser under all the guidance that is on, for one run; the denoiser itself where all is off.

    From the inside out: the method for prompt and negative prompt, the picture's scale, PAG, SEG, autoguidance,
    rescale, thresholding, and the renoising of CFG++. All passes over the model are one network call; a weak model
    gets one of its own.

    Args:
        denoiser: conditioned on the prompt, batch B; may be `Regions`.
        negative: of the negative prompt, batch B or 1; may be None unless `settings.needs_negative`.
        settings: which guidance is on, and how strong.
        empty: of the empty prompt, batch B or 1, if `settings.needs_empty`.
        weak: the second model for autoguidance, conditioned on the same prompt.

    Raises:
        ValueError: names what is missing or does not fit.
    """
    s, interval = settings, settings.guidance_interval
    if s.needs_negative and negative is not None:
        negative = fit_batch(negative, denoiser)  # once, so that all links mean the same object
    chain: ConditionalDenoiser | GuidedDenoiser = _with_negative(denoiser, negative, empty, s)
    if s.image_guidance_scale != 1 and negative is not None:
        chain = PictureGuidance(chain, negative, s.image_guidance_scale, interval)
    if s.pag_scale != 0:
        chain = PerturbedAttentionGuidance(chain, s.pag_scale, s.pag_applied_layers, interval)
    if s.seg_scale != 0:
        chain = SmoothedEnergyGuidance(chain, s.seg_scale, s.seg_applied_layers, s.seg_blur_sigma, interval)
    if s.autoguidance_scale != 1:
        if weak is None:
            raise ValueError(f"autoguidance_scale={s.autoguidance_scale} needs a second, weaker model; none was given")
        chain = Autoguidance(chain, weak, s.autoguidance_scale, interval)
    if s.guidance_rescale != 0:
        chain = Rescale(chain, s.guidance_rescale)
    if s.thresholding:
        chain = DynamicThresholding(chain, s.dynamic_thresholding_ratio, s.sample_max_value)
    if s.clip_sample_range is not None:
        chain = StaticThresholding(chain, s.clip_sample_range)
    if s.guidance_method == "cfg++" and negative is not None:
        chain = CFGPlusPlus(chain, negative, interval)
    return chain


def _with_negative(
    denoiser: ConditionalDenoiser, negative: Conditioning | None, empty: Conditioning | None, s: GuidanceSettings
) -> ConditionalDenoiser | GuidedDenoiser:
    scale, interval = s.guidance_scale, s.guidance_interval
    if s.needs_negative and negative is None:
        raise ValueError(f"guidance_method={s.guidance_method!r} at guidance_scale={scale} needs a negative prompt")
    if s.needs_empty:
        if empty is None:
            raise ValueError(f"guidance_method={s.guidance_method!r} needs the conditioning of the empty prompt too")
        negatives = [] if negative is None else [negative]
        return PerpNeg(denoiser, empty, negatives, scale, s.perp_neg_scale, interval)
    if scale == 1 or negative is None:
        return denoiser
    if s.guidance_method == "apg":
        return AdaptiveProjectedGuidance(denoiser, negative, scale, s.apg_eta, s.apg_rescale, s.apg_momentum, interval)
    return ClassifierFreeGuidance(denoiser, negative, scale, interval=interval, reuse=s.guidance_reuse)
