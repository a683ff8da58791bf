"""Posterior samples of a model as methods of the bench, for the damages whose operator is known."""

from torch import Tensor
from torch.nn import functional as F

from ldm.evaluation.restoration.damages import Damaged
from ldm.evaluation.restoration.filters import bicubic
from ldm.evaluation.restoration.methods import Method, Settings
from ldm.evaluation.restoration.pictures import SIZE
from ldm.pipeline.pipeline import LatentDiffusion

SAMPLES = 4
_ROUNDED = 0.3
"""The deviation of rounding to 8 bits, 1 / sqrt(12)."""
KNOWN: dict[str, tuple[str, float]] = {
    "gaussian 50": ("identity", 50.0),
    "blur 2, noise 5": ("blur=2", 5.0),
    "x2": ("area-down=2", _ROUNDED),
    "x4": ("area-down=4", _ROUNDED),
    "hole 40": ("identity", _ROUNDED),
}
"""Damage -> its operator, and its noise as a deviation of 255."""


def posterior_methods(model: LatentDiffusion) -> dict[str, Method]:
    """Mean and sample of a model's posterior. It works in its own size, of which the bench's picture is a block mean.

    Args:
        model: of any size that is a multiple of the bench's.
    """

    def samples(damaged: Damaged, count: int) -> Tensor:
        operator, level = KNOWN[damaged.damage.name]
        by = _times_larger(model)
        made = model.reconstruct(
            "",
            damaged.picture,
            f"area-down={by},{operator}",
            None if damaged.mask is None else damaged.mask[None].float(),
            level,
            num_images_per_prompt=count,
            seed=0,
            output_type="pt",
        )
        small: Tensor = F.avg_pool2d(made.images, by)
        return small

    def mean(damaged: Damaged, settings: Settings) -> Tensor:
        return samples(damaged, SAMPLES).mean(0)

    def sample(damaged: Damaged, settings: Settings) -> Tensor:
        return samples(damaged, 1)[0]

    named = {"posterior mean": mean, "posterior sample": sample}
    return {name: Method(name, tuple(KNOWN), restore) for name, restore in named.items()}


def autoencoded(model: LatentDiffusion, truth: Tensor) -> Tensor:
    """What a model's autoencoder makes of a picture (3, 128, 128) in the model's own size, made small again."""
    by = _times_larger(model)
    large = bicubic(truth, SIZE * by, SIZE * by).clamp(0, 1)
    return F.avg_pool2d(model.decode(model.encode(large[None]), upscale=False), by)[0].cpu()


def _times_larger(model: LatentDiffusion) -> int:
    return max(1, model.parts.defaults.width // SIZE)
