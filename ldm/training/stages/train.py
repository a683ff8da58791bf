"""Where a run's task meets the loop: builds data and objective from a run and trains."""

from collections.abc import Sequence
from pathlib import Path

import torch

from autoencoder.build import build_autoencoder
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import fold_whitening
from autoencoder.statistics import LatentStatistics
from autoencoder.training.objective import AutoencoderObjective
from conditioning.text_encoder import TextEncoder
from conditioning.training.contrastive import ClipObjective
from conditioning.training.teacher import SentenceTeacher
from conditioning.training.vocabulary_sentences import vocabulary_sentences
from ldm.data.cache.latents import LatentDataset
from ldm.data.cache.text_states import TextStates, caption_bytes
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.class_labels import require_labels
from ldm.data.sources.mixture import SourceMixture
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.data.upscaling import UpscalingDataset
from ldm.engine.precision import DTYPES
from ldm.io.disk.files import size_in_words, write_folder, write_json
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder
from ldm.io.folder.latent_statistics import require_statistics, settled_config, write_statistics
from ldm.io.folder.load import load_text, load_unet
from ldm.io.folder.upscaler import load_upscaler
from ldm.io.locate import resolve_model
from ldm.naming import look_up
from ldm.networks.unet import UNet
from ldm.training.distributed.processes import init_processes
from ldm.training.loop import Trainer
from ldm.training.objectives.base import Dataset, Objective
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective
from ldm.training.objectives.upscaler import UpscalerObjective
from ldm.training.stages.base import image_token_objective
from ldm.training.stages.latent_statistics import measure_dataset
from ldm.training.stages.table import (
    AutoencoderRun,
    ClipRun,
    DataConfig,
    ImageTokenRun,
    LatentDiffusionRun,
    Run,
    UpscalerRun,
    to_yaml,
)

_PictureRun = AutoencoderRun | ClipRun | ImageTokenRun | LatentDiffusionRun
_MEASURED = 1024  # pictures that the latents' statistics rest on; 256 numbers each at 64 px


def train(run: Run, resume: str = "auto") -> Trainer:
    """Train what `run` describes, to its end or an interrupt. Returns the trainer (`samples_seen`, `interrupted`)."""
    torch.manual_seed(run.loop.seed)
    if isinstance(run, AutoencoderRun):
        objective, dataset, shown = _autoencoder(run)
    elif isinstance(run, ClipRun):
        objective, dataset, shown = _clip(run)
    elif isinstance(run, ImageTokenRun):
        objective, dataset, shown = _image_tokens(run)
    elif isinstance(run, UpscalerRun):
        objective, dataset, shown = _upscaler(run)
    else:
        objective, dataset, shown = _latent_diffusion(run)
    trainer = Trainer(objective, dataset, run.loop, Path(run.output), to_yaml(run), shown)
    trainer.fit(resume)
    if isinstance(run, AutoencoderRun):
        for folder in trainer.exports:
            _settle_latents(run, folder, dataset)
    return trainer


def _settle_latents(run: AutoencoderRun, folder: Path, dataset: Dataset) -> None:
    """Say in the exported autoencoder how its latents are scaled.

    After decoder-only training, as before it. Otherwise every channel gets mean 0 and deviation 1, as the noise has,
    folded into `quant_conv`; a codebook or a missing `quant_conv` leaves no place for that but for one scale.
    """
    if run.decoder_only:
        write_json(folder / "vae" / "config.json", settled_config(resolve_model("initial", run.initial)))
        return
    autoencoder, _ = load_autoencoder(folder)
    statistics = measure_dataset(autoencoder, dataset, _MEASURED)
    if isinstance(autoencoder, KLAutoencoder) and autoencoder.quant_conv is not None:
        fold_whitening(autoencoder, torch.tensor(statistics.mean), torch.tensor(statistics.std))
        channels = len(statistics.mean)
        statistics = LatentStatistics(mean=(0.0,) * channels, std=(1.0,) * channels)
        with write_folder(folder / "vae") as temporary:
            save_autoencoder(autoencoder, temporary)
    write_statistics(folder, statistics, _MEASURED, run.data.size)


def _autoencoder(run: AutoencoderRun) -> tuple[Objective, Dataset, Dataset]:
    train_set, held_out = _pictures(run, captioned=False)
    if run.initial:
        autoencoder, _ = load_autoencoder(resolve_model("initial", run.initial))
    else:
        autoencoder = build_autoencoder(run.autoencoder)
    _check_step(run.data, autoencoder.config.factor)
    return AutoencoderObjective(autoencoder, run.loss, run.decoder_only), train_set, held_out


def _clip(run: ClipRun) -> tuple[Objective, Dataset, Dataset]:
    train_set, held_out = _pictures(run, captioned=True)
    sentences = _sentences(run)
    teacher = SentenceTeacher.from_package() if run.clip.teacher_weight > 0 else None
    objective = ClipObjective.build(run.clip, train_set.all_captions(), run.output, sentences, teacher)
    return objective, train_set, held_out


def _image_tokens(run: ImageTokenRun) -> tuple[Objective, Dataset, Dataset]:
    train_set, held_out = _pictures(run, captioned=True)
    return image_token_objective(run, _sentences(run)), train_set, held_out


def _sentences(run: ClipRun | ImageTokenRun) -> list[str]:
    """Sentences of the words that the data knows beside its captions."""
    lists = [file for source in run.data.all_sources if (file := Path(source.path) / "words.txt").is_file()]
    words = [word for file in lists for word in file.read_text().splitlines()]
    return vocabulary_sentences(words, run.styles) if words else []


def _latent_diffusion(run: LatentDiffusionRun) -> tuple[Objective, Dataset, Dataset]:
    autoencoder_folder = resolve_model("autoencoder", run.autoencoder)
    autoencoder, latent_format = load_autoencoder(autoencoder_folder)
    _check_step(run.data, autoencoder.config.factor)
    require_statistics(autoencoder_folder, run.data.all_sources[0].path, run.data.size)
    text = load_text(resolve_model("text", run.text)) if run.text else None
    unet = UNet(run.unet) if not run.initial else load_unet(resolve_model("initial", run.initial))
    upscaler = load_upscaler(Path(run.upscaler)) if run.upscaler else None
    dtype = look_up("export_dtype", run.export_dtype, DTYPES)
    frozen = FrozenParts(autoencoder, latent_format, text, upscaler)
    batch_size, seed = run.loop.batch_size, run.loop.seed
    objective = LatentDiffusionObjective(unet, frozen, run.diffusion, run.data.size, dtype, batch_size, seed)
    objective.check_export()
    labelled = run.diffusion.concat != "low_resolution"  # whose labels are levels of noise
    num_classes = unet.config.num_classes if labelled else None
    train_set, held_out = _pictures(run, captioned=bool(run.text), num_classes=num_classes)
    device = init_processes()
    if text is not None:
        objective.use_states(_text_states(run, text, [train_set, held_out], device))
    if not run.cache_latents:
        return objective, train_set, held_out
    autoencoder, also_pictures = autoencoder.to(device), bool(run.diffusion.concat)
    shown = LatentDataset(held_out, autoencoder, held_out.cache, also_pictures)
    return objective, LatentDataset(train_set, autoencoder, train_set.cache, also_pictures), shown


def _text_states(
    run: LatentDiffusionRun, text: TextEncoder, pictures: Sequence[PictureDataset], device: torch.device
) -> TextStates | None:
    """What `text` says of all captions, from disk, if the run wants that."""
    if run.cache_text == "false" or run.data.augment.changes_captions:
        return None
    captions = sorted({caption for each in pictures for caption in each.all_captions()})
    size = len(captions) * caption_bytes(text)
    fits = size <= 1e9 * run.cache_text_gb
    if run.cache_text == "auto" and not (fits and run.loop.samples > len(captions)):
        return None
    if not fits:
        raise ValueError(
            f"cache_text=true: the states of {len(captions):,} captions take {size_in_words(size)}, more than"
            f" cache_text_gb={run.cache_text_gb:g}; raise that, or use cache_text=false"
        )
    return TextStates(text, captions, pictures[0].cache, device)


def _check_step(data: DataConfig, factor: int) -> None:
    """Refuse buckets that the autoencoder cannot read."""
    if (step := data.buckets.step) % factor:
        near = max(step // factor, 1) * factor
        raise ValueError(f"data.buckets.step={step} is not a multiple of the autoencoder's factor {factor}; use {near}")


def _upscaler(run: UpscalerRun) -> tuple[Objective, Dataset, Dataset]:
    autoencoder, _ = load_autoencoder(resolve_model("autoencoder", run.autoencoder))
    bad_pictures, factor = BadPictures(Path(run.output) / "bad_pictures.jsonl"), run.upscaler.factor

    def opened(split: str, whole: bool) -> UpscalingDataset:
        source = open_source([SourceConfig(run.data.folder)], split, run.data.held_out, captioned=False)
        pictures = PictureDataset(source, run.data.size, bad_pictures=bad_pictures)
        return UpscalingDataset(pictures, autoencoder, pictures.cache, factor, run.data, whole)

    return UpscalerObjective(run.upscaler, run.loss), opened("train", False), opened("held_out", True)


def _pictures(
    run: _PictureRun, captioned: bool, num_classes: int | None = None
) -> tuple[PictureDataset, PictureDataset]:
    """The training pictures, and the held-out ones for previews; with labels for a network of so many classes."""
    data, bad_pictures = run.data, BadPictures(Path(run.output) / "bad_pictures.jsonl")
    cache = Path(data.cache) if data.cache else None

    def opened(split: str) -> SourceMixture:
        source = open_source(data.all_sources, split, data.held_out, captioned, cache)
        if num_classes is not None:
            require_labels(source, num_classes)
        return source

    train_set = PictureDataset(
        opened("train"),
        data.size,
        crop_fraction=data.crop_fraction,
        kind_weights=data.kind_weights,
        cache_pictures=data.cache_pictures,
        bad_pictures=bad_pictures,
        buckets=data.buckets,
        augment=data.augment,
    )
    shown = PictureDataset(
        opened("held_out" if data.held_out else "train"),
        data.size,
        cache_pictures=data.cache_pictures,
        bad_pictures=bad_pictures,
        buckets=data.buckets,
    )
    return train_set, shown
