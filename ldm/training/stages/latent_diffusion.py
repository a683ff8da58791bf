"""The last stage: a denoiser, latents from noise, given words or a label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ldm.engine.precision import DTYPES
from ldm.families.parts import Defaults, LowResolution, ModelParts
from ldm.io.folder.autoencoder import load_autoencoder
from ldm.io.folder.latent_statistics import require_statistics
from ldm.io.folder.load import load_text, load_unet, save_folder, words_in
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.upscaler import load_upscaler
from ldm.io.locate import resolve_model
from ldm.networks.unet import UNet, UNetConfig
from ldm.progress import Progress, silent
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.objectives.concat_conditions import LOW_RESOLUTION_NOISE
from ldm.training.objectives.latent_batches import FrozenParts, require_fit
from ldm.training.objectives.latent_diffusion import LatentDiffusionObjective
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import require_bucket_step
from ldm.training.stages.latents import LatentRun, denoising_pass


@dataclass(frozen=True)
class LatentDiffusionRun(LatentRun):
    """Last stage: latents from noise, given words or a label.

    Attributes:
        autoencoder: export folder of stage 1, or any model folder or hub id with an autoencoder of a known scale.
        text: export folder of stage 2, or a model folder or hub id with one or two text encoders; empty trains on
            labels (`unet.num_classes`) or without any condition.
        upscaler: folder of a network that the exported model enlarges its pictures with; empty for none.
        initial: model folder or hub id whose U-Net the training starts from; empty starts from random weights.
    """

    task: str = "ldm"
    autoencoder: str = ""
    text: str = ""
    upscaler: str = ""
    initial: str = ""
    unet: UNetConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`. What cannot work is refused before anything is cached."""
        unet, frozen = self._models()
        concat = self.diffusion.concat
        require_fit(unet.config, frozen, concat, self.diffusion.noise_levels)
        require_exportable(self.diffusion)
        num_classes = unet.config.num_classes if concat != "low_resolution" else None  # whose labels are noise levels
        frozen, train_set, previews = self.open_data(frozen, num_classes, device, progress, bool(concat))
        objective = LatentDiffusionObjective(unet, frozen, self.diffusion, self.loop.batch_size, self.loop.seed)
        export = partial(write_model, objective, self.data.size, DTYPES[self.export_dtype])
        return Stage(objective, train_set, previews, export)

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        size = self.data.size // factor
        return [NetworkEstimate("unet", partial(UNet, self.unet), partial(denoising_pass, self.unet, size))]

    def _models(self) -> tuple[UNet, FrozenParts]:
        """The network in training and the finished ones around it."""
        folder = resolve_model("autoencoder", self.autoencoder)
        autoencoder, latent_format = load_autoencoder(folder)
        require_bucket_step(self.data, autoencoder.config.factor)
        require_statistics(folder, self.data.all_sources[0].path, self.data.size)
        text = load_text(resolve_model("text", self.text)) if self.text else None
        initial = resolve_model("initial", self.initial) if self.initial else None
        unet = UNet(self.unet) if initial is None else load_unet(initial)
        words = frozenset[str]() if initial is None else words_in(initial)
        upscaler = load_upscaler(resolve_model("upscaler", self.upscaler)) if self.upscaler else None
        return unet, FrozenParts(autoencoder, latent_format, text, upscaler, words=words)


def write_model(
    objective: LatentDiffusionObjective,
    picture_size: int,
    dtype: torch.dtype,
    folder: Path,
    modules: Mapping[str, nn.Module],
) -> None:
    """Write a whole model folder in the Stable Diffusion layout.

    Args:
        objective: with the finished parts of the model, the process, and the defaults of drawing.
        picture_size: height and width of the pictures that it was trained on, in pixels.
        dtype: of the weights in the files.
        folder: exists.
        modules: the trained `unet`.

    Raises:
        ValueError: as `require_exportable`.
    """
    unet, frozen, config = modules["unet"], objective.frozen, objective.config
    assert isinstance(unet, UNet)
    low_resolution = LowResolution(LOW_RESOLUTION_NOISE, config.noise_levels - 1)
    parts = ModelParts(
        text=frozen.text,
        unet=unet,
        autoencoder=frozen.autoencoder,
        latent_format=frozen.latent_format,
        process=config.make_process(),
        prediction_type=config.prediction_type,
        defaults=Defaults(
            width=picture_size,
            height=picture_size,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            sampler=config.sampling[0],
            schedule=config.sampling[1],
        ),
        upscaler=frozen.upscaler,
        low_resolution=low_resolution if config.concat == "low_resolution" else None,
        words=frozen.words or None,
    )
    save_folder(parts, folder, dtype)


def require_exportable(config: DiffusionConfig) -> None:
    """Find out before a training whether its end can be exported.

    Raises:
        ValueError: diffusers has no scheduler for this process with this prediction type.
    """
    try:
        scheduler_fields(config.make_process(), config.prediction_type, *config.sampling)
    except ValueError as error:
        raise ValueError(
            f"diffusion.process={config.process!r} with diffusion.prediction_type={config.prediction_type!r} could "
            f"not be exported: {error}"
        ) from None
