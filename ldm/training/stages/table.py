"""The table of stages: the name of a task and the dataclass of its settings, which builds it."""

from ldm.training.stages.autoencoder import AutoencoderRun
from ldm.training.stages.clip import ClipRun
from ldm.training.stages.distill import DistillRun
from ldm.training.stages.image_tokens import ImageTokenRun
from ldm.training.stages.latent_diffusion import LatentDiffusionRun
from ldm.training.stages.restorer import RestorerRun

AnyRun = AutoencoderRun | ClipRun | DistillRun | ImageTokenRun | LatentDiffusionRun | RestorerRun

STAGES: dict[str, type[AnyRun]] = {
    "autoencoder": AutoencoderRun,
    "clip": ClipRun,
    "distill": DistillRun,
    "image_tokens": ImageTokenRun,
    "ldm": LatentDiffusionRun,
    "restorer": RestorerRun,
}
