"""A training as a YAML file: its dataclasses, how it is read, and how its parts are put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autoencoder.config import AutoencoderConfig
from autoencoder.training.objective import LossConfig
from conditioning.training.contrastive import ClipConfig
from conditioning.training.image_tokens import ImageTokenConfig
from ldm.data.cache.text_states import CACHE_TEXT
from ldm.data.pictures.augmenting import AugmentConfig
from ldm.data.pictures.buckets import BucketConfig, bucket_shapes
from ldm.data.pictures.dataset import CACHE_PICTURES
from ldm.data.sources.open_source import SourceConfig
from ldm.data.upscaling import UpscalingDataConfig
from ldm.naming import look_up, nearest
from ldm.networks.unet import UNetConfig
from ldm.networks.upscaler.config import UpscalerConfig, UpscalerLossConfig
from ldm.training.config import LoopConfig
from ldm.training.diffusion.config import DiffusionConfig


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        folder: the one source of the pictures; short for `sources` with one `path`.
        sources: several sources.
        held_out: share of the pictures that previews come from and training never sees, of each source that has no
            `held_out/`; 0 trains on all and previews what was trained on.
        size: edge of the pictures that the network sees, in pixels.
        crop_fraction: share of samples that are random crops of pictures twice as large.
        buckets: shapes that pictures may have beside the square.
        kind_weights: factors on how often pictures are drawn, by the `kind` that their recipe gave them.
        cache: folder for decoded pictures, latents and indexes; empty takes `.cache` in the data folder, or the user's
            cache where there is no such folder.
        cache_pictures: decode every picture once and keep the pixels: true, false, or auto, which does so up to 16 GiB.
        augment: how training samples are varied; previews are not.
    """

    folder: str = ""
    sources: list[SourceConfig] = field(default_factory=list)
    held_out: float = 0.02
    size: int = 64
    crop_fraction: float = 0.0
    kind_weights: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    cache_pictures: str = "auto"
    buckets: BucketConfig = field(default_factory=BucketConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        bucket_shapes(self.size, self.buckets)
        if self.folder and self.sources:
            raise ValueError(
                f"data.folder={self.folder} and data.sources are both given; write data.folder='' or leave these out"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} is a share of the pictures: use 0 or more, below 1")
        object.__setattr__(self, "cache_pictures", self.cache_pictures.lower())  # YAML's true becomes "True"
        look_up("data.cache_pictures", self.cache_pictures, dict.fromkeys(CACHE_PICTURES))

    @property
    def all_sources(self) -> list[SourceConfig]:
        """The sources, also where only `folder` names one."""
        return self.sources or [SourceConfig(self.folder)]


@dataclass(frozen=True)
class AutoencoderRun:
    """Stage 1: pictures to latents and back.

    Attributes:
        initial: autoencoder or model folder that the training starts from, in place of random weights of the shape
            `autoencoder`.
        decoder_only: train the decoder of `initial` alone, so that its latents, and every denoiser that knows them,
            stay as they are.
    """

    task: str = "autoencoder"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    initial: str = ""
    decoder_only: bool = False
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.decoder_only and not self.initial:
            raise ValueError("decoder_only=True has no encoder to keep; name the autoencoder's folder in initial")


@dataclass(frozen=True)
class ClipRun:
    """Stage 2: words that lie near their pictures.

    Attributes:
        styles: phrases that also follow the words of the data set's `words.txt`, which the text teacher explains.
    """

    task: str = "clip"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    styles: tuple[str, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.data.buckets.step:
            raise ValueError(f"data.buckets.step={self.data.buckets.step}: CLIP's picture tower reads squares; use 0")


@dataclass(frozen=True)
class ImageTokenRun:
    """After stage 2, for small denoisers: a text tower that also says what is where in the picture.

    Attributes:
        text: export folder of stage 2.
        initial: export folder of such a training of `text`, to go on from; empty starts from `text`.
        styles: as of the `clip` task; with `words.txt` they make the sentences whose words are kept in place.
    """

    task: str = "image_tokens"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    text: str = ""
    initial: str = ""
    image_tokens: ImageTokenConfig = field(default_factory=ImageTokenConfig)
    styles: tuple[str, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.data.buckets.step:
            raise ValueError(f"data.buckets.step={self.data.buckets.step}: a sketch is a square; use 0")


@dataclass(frozen=True)
class LatentDiffusionRun:
    """Last stage: latents from noise, given words or a label.

    Attributes:
        autoencoder: export folder of stage 1, or any model folder or hub id with an autoencoder of a known scale.
        text: export folder of stage 2, or a model folder or hub id with one or two text encoders; empty trains on
            labels (`unet.num_classes`) or without any condition.
        upscaler: folder of a network that the exported model enlarges its pictures with; empty for none.
        export_dtype: of the exported weights, fp32, fp16 or bf16.
        cache_latents: encode every picture once and keep the latents on disk; else in every step, as random crops need.
        cache_text: the same for captions and `text`: true, false, or auto, which does so where the training asks for
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


@dataclass(frozen=True)
class UpscalerRun:
    """Small decoded pictures to large crisp ones.

    Attributes:
        autoencoder: export folder of stage 1, whose decoded pictures are the input.
    """

    task: str = "upscaler"
    output: str = ""
    data: UpscalingDataConfig = field(default_factory=UpscalingDataConfig)
    autoencoder: str = ""
    upscaler: UpscalerConfig = field(default_factory=UpscalerConfig)
    loss: UpscalerLossConfig = field(default_factory=UpscalerLossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


Run = AutoencoderRun | ClipRun | ImageTokenRun | LatentDiffusionRun | UpscalerRun
RUNS: dict[str, type[Run]] = {
    "autoencoder": AutoencoderRun,
    "clip": ClipRun,
    "image_tokens": ImageTokenRun,
    "ldm": LatentDiffusionRun,
    "upscaler": UpscalerRun,
}


def load_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """Read a run from YAML and `a.b=c` overrides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key (the nearest known one is named), a value of the wrong type, or a value out of range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"config {path} does not exist; the shipped ones are in configs/")
    try:
        loaded = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ValueError(f"config {path}: {_first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise ValueError(f"config {path} is not a mapping of settings")
    task = loaded.get("task")
    if task not in RUNS:
        raise ValueError(f"config {path}: task={task!r}; {nearest(str(task), RUNS)}")
    _modernise(loaded)
    _refuse_unknown_keys(loaded, RUNS[task], "")
    return _fill(loaded, RUNS[task], path)


def to_yaml(run: Run) -> str:
    """The resolved run, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def _fill(loaded: DictConfig, kind: type[Run], path: Path) -> Run:
    schema = OmegaConf.structured(kind)
    OmegaConf.set_readonly(schema, False)
    for node in schema.values():
        if isinstance(node, DictConfig):
            OmegaConf.set_readonly(node, False)
    try:
        run = OmegaConf.to_object(OmegaConf.merge(schema, loaded))
    except OmegaConfBaseException as error:
        raise ValueError(f"config {path}: {_first_line(error)}") from error
    assert isinstance(run, Run)
    if not run.output:
        raise ValueError(f"config {path}: output is empty; name the folder that receives the training")
    return run


def _modernise(loaded: DictConfig) -> None:
    """Read what older versions wrote: `loop.tensorboard`, which `loop.trackers` replaced."""
    loop = loaded.get("loop")
    if isinstance(loop, DictConfig) and "tensorboard" in loop:
        wanted = loop.pop("tensorboard")
        loop.setdefault("trackers", ["tensorboard"] if wanted else [])


def _refuse_unknown_keys(loaded: DictConfig, kind: type[Any], prefix: str) -> None:
    known = get_type_hints(kind)
    for key in map(str, loaded):
        if key not in {f.name for f in fields(kind)}:
            raise ValueError(f"unknown setting {prefix}{key}; {nearest(key, known)}")
        if is_dataclass(known[key]) and isinstance(loaded[key], DictConfig):
            _refuse_unknown_keys(loaded[key], known[key], f"{prefix}{key}.")  # type: ignore[arg-type]
        for item in get_args(known[key]):
            if is_dataclass(item) and isinstance(loaded[key], ListConfig):
                for number, each in enumerate(loaded[key]):
                    if isinstance(each, DictConfig):
                        _refuse_unknown_keys(each, item, f"{prefix}{key}[{number}].")  # type: ignore[arg-type]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
