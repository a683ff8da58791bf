"""Guidance: Denoiser -> Denoiser, in links that can be chained.

A link wraps a plain denoiser or another link. It lists the network passes that it needs at x (`NetworkPass`: a
conditioning, a hook into attention, perhaps another model), the chain runs all of them in one network call per model,
and from the inside out each link combines their predictions. So CFG with PAG costs one call over 3B, and two links that
need the same share one pass. Each record keeps its `conditional` part, from which the links further out count.

    ClassifierFreeGuidance   u + s (c - u); negative prompt, interval, u at every k-th evaluation
    AdaptiveProjectedGuidance, PerpNeg   in its place
    PictureGuidance          + (s - 1) (u - u without the picture), InstructPix2Pix's second scale
    PerturbedAttentionGuidance, SmoothedEnergyGuidance, Autoguidance   + s (c - worse)
    Rescale, DynamicThresholding, StaticThresholding   on what came out
    CFGPlusPlus              outermost: the unconditional eps

`guide` builds the chain of a `GuidanceSettings`. `Composition` and `Regions` are beneath all guidance and around
`TiledDenoiser`, `Timeline` is above it. A chain serves one run: APG remembers where it is, and CFG what
u was where it runs at some evaluations only.
"""

from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.cfg_plus_plus import CFG_PLUS_PLUS_SAMPLERS, CFGPlusPlus
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.guidance.composition import Composition
from ldm.guidance.interval import PRESETS
from ldm.guidance.perp_neg import PerpNeg
from ldm.guidance.perturbed_attention import PerturbedAttentionGuidance
from ldm.guidance.picture import PictureGuidance
from ldm.guidance.projected import AdaptiveProjectedGuidance
from ldm.guidance.regions import Region, Regions
from ldm.guidance.rescale import Rescale, rescale_contrast
from ldm.guidance.settings import METHODS, GuidanceSettings, guide
from ldm.guidance.smoothed_energy import SmoothedEnergyGuidance
from ldm.guidance.thresholding import DynamicThresholding, StaticThresholding
from ldm.guidance.tiled import TiledDenoiser
from ldm.guidance.timeline import Timeline

__all__ = [
    "CFG_PLUS_PLUS_SAMPLERS",
    "METHODS",
    "PRESETS",
    "AdaptiveProjectedGuidance",
    "Autoguidance",
    "CFGPlusPlus",
    "ClassifierFreeGuidance",
    "Composition",
    "DynamicThresholding",
    "Guidance",
    "GuidanceSettings",
    "GuidedDenoiser",
    "NetworkPass",
    "PerpNeg",
    "PerturbedAttentionGuidance",
    "PictureGuidance",
    "Region",
    "Regions",
    "Rescale",
    "SmoothedEnergyGuidance",
    "StaticThresholding",
    "TiledDenoiser",
    "Timeline",
    "guide",
    "rescale_contrast",
]
