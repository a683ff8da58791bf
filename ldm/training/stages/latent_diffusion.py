"""The last stage: a denoiser, latents from noise, given words or a label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.latents import LatentDataset
from ldm.data.cache.text_states import CACHE_TEXT, TextStates, caption_bytes
from ldm.data.pictures.dataset import PictureDataset
from ldm.engine.precision import DTYPES
from ldm.families.parts import Defaults, LowResolution, ModelParts
from ldm.io.disk.files import size_in_words
from ldm.io.folder.autoencoder import load_autoencoder
from ldm.io.folder.latent_statistics import require_statistics
from ldm.io.folder.load import load_text, load_unet, save_folder
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.upscaler import load_upscaler
from ldm.io.locate import resolve_model
from ldm.naming import look_up
from ldm.networks.unet import UNet, UNetConfig
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.objectives.concat_conditions import LOW_RESOLUTION_NOISE
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective, require_fit
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import DataConfig, open_pictures, require_bucket_step

_TOKENS = 77  # that CLIP reads


@dataclass(frozen=True)
class LatentDiffusionRun:
    """Last stage: latents from noise, given words or a label.

    Attributes:
        autoencoder: export folder of stage 1, or any model folder or hub id with an autoencoder of a known scale.
        text: export folder of stage 2, or a model folder or hub id with one or two text encoders; empty trains on
            labels (`unet.num_classes`) or without any condition.
        upscaler: folder, or `emoji/upscaler`, of a network that the exported model enlarges its pictures with; empty for
            none.
        export_dtype: of the exported weights, fp32, fp16 or bf16.
        cache_latents: encode every picture once and keep the latents on disk; else in every step, as random crops need.
        cache_text: the same for captions and `text`: true, false, or auto, which does so where the training uses
            more captions than there are and they take at most `cache_text_gb`.
        cache_text_gb: most gigabytes (10⁹ bytes) that token states may take on disk.
        initial: model folder or hub id whose U-Net the training starts from; empty starts from random weights.
    """

    task: str = "ldm"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: str = ""
    text: str = ""
    upscaler: str = ""
    export_dtype: str = "fp32"
    cache_latents: bool = True
    cache_text: str = "auto"
    cache_text_gb: float = 4.0
    initial: str = ""
    unet: UNetConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.cache_latents and self.data.crop_fraction:
            raise ValueError(
                f"data.crop_fraction={self.data.crop_fraction} is for random crops, whose latents cannot be cached; "
                "use cache_latents=false, or crop_fraction=0"
            )
        object.__setattr__(self, "cache_text", self.cache_text.lower())  # YAML's true becomes "True"
        look_up("cache_text", self.cache_text, dict.fromkeys(CACHE_TEXT))
        look_up("export_dtype", self.export_dtype, DTYPES)
        if self.cache_latents and self.data.augment.changes_pixels:
            raise ValueError(
                "data.augment changes pictures (flip, crop_scale or colour), whose latents cannot be cached; "
                "use cache_latents=false, or vary captions alone"
            )
        if self.cache_text == "true" and self.data.augment.changes_captions:
            raise ValueError(
                "data.augment changes captions (shuffle_tags or drop_tags), whose states cannot be cached; "
                "use cache_text=false"
            )

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`. What cannot work is refused before anything is cached."""
        unet, frozen = self._models()
        require_fit(unet.config, frozen, self.diffusion)
        require_exportable(self.diffusion)
        labelled = self.diffusion.concat != "low_resolution"  # whose labels are levels of noise
        num_classes = unet.config.num_classes if labelled else None
        train_set, previews = open_pictures(self.data, self.output, bool(self.text), progress, num_classes)
        if frozen.text is not None:
            frozen = replace(frozen, states=self._text_states(frozen.text, [train_set, previews], device, progress))
        objective = LatentDiffusionObjective(unet, frozen, self.diffusion, self.loop.batch_size, self.loop.seed)
        export = partial(write_model, objective, self.data.size, DTYPES[self.export_dtype])
        if not self.cache_latents:
            return Stage(objective, train_set, previews, export)
        autoencoder, also_pictures = frozen.autoencoder.to(device), bool(self.diffusion.concat)
        preview_latents, train_latents = (
            LatentDataset(each, autoencoder, each.cache, also_pictures, progress) for each in (previews, train_set)
        )
        return Stage(objective, train_latents, preview_latents, export)

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        size = self.data.size // factor
        return [NetworkEstimate("unet", partial(UNet, self.unet), partial(_denoise, self.unet, size))]

    def _models(self) -> tuple[UNet, FrozenParts]:
        """The network in training and the finished ones around it."""
        folder = resolve_model("autoencoder", self.autoencoder)
        autoencoder, latent_format = load_autoencoder(folder)
        require_bucket_step(self.data, autoencoder.config.factor)
        require_statistics(folder, self.data.all_sources[0].path, self.data.size)
        text = load_text(resolve_model("text", self.text)) if self.text else None
        unet = load_unet(resolve_model("initial", self.initial)) if self.initial else UNet(self.unet)
        upscaler = load_upscaler(resolve_model("upscaler", self.upscaler)) if self.upscaler else None
        return unet, FrozenParts(autoencoder, latent_format, text, upscaler)

    def _text_states(
        self, text: TextEncoder, pictures: Sequence[PictureDataset], device: torch.device, progress: Progress
    ) -> TextStates | None:
        """The cached text states of all captions, if this run caches them."""
        if self.cache_text == "false" or self.data.augment.changes_captions:
            return None
        captions = sorted({caption for each in pictures for caption in each.all_captions()})
        size = len(captions) * caption_bytes(text)
        fits = size <= 1e9 * self.cache_text_gb
        if self.cache_text == "auto" and not (fits and self.loop.samples > len(captions)):
            return None
        if not fits:
            raise ValueError(
                f"cache_text=true: the states of {len(captions):,} captions take {size_in_words(size)}, more than"
                f" cache_text_gb={self.cache_text_gb:g}; raise that, or use cache_text=false"
            )
        return TextStates(text, captions, pictures[0].cache, device, progress)


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


def _denoise(config: UNetConfig, size: int, unet: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a denoiser on latents of `size`."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(samples, *shape, device=device)

    conditioning = Conditioning(
        tokens=numbers(_TOKENS, config.context_dim) if config.context_dim is not None else None,
        labels=numbers().long() if config.num_classes is not None else None,
        pooled=numbers(config.pooled_dim) if config.pooled_dim is not None else None,
        sizes=numbers(config.size_count) if config.pooled_dim is not None else None,
    )
    output = unet(numbers(config.in_channels, size, size), numbers(), conditioning)
    return output.float().square().mean()
