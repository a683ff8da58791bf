"""Where a run's task meets the loop: builds data and objective from a run and trains."""

from pathlib import Path

import torch

from autoencoder.kl import KLAutoencoder
from autoencoder.objective import AutoencoderObjective
from conditioning.clip_text import ClipText
from conditioning.contrastive import ClipObjective
from ldm.data.latents import LatentDataset
from ldm.data.pictures import PictureDataset
from ldm.io.folder import load_autoencoder, load_text, load_unet
from ldm.training.latent_diffusion import LatentDiffusionObjective
from ldm.training.loop import Trainer
from ldm.training.objective import Dataset, Objective
from ldm.training.run import AutoencoderRun, ClipRun, DataConfig, LatentDiffusionRun, Run, to_yaml
from ldm.unet import UNet


def train(run: Run, resume: str = "auto") -> Trainer:
    """Train what `run` describes, to its end or an interrupt. Returns the trainer (`samples_seen`, `interrupted`)."""
    torch.manual_seed(run.loop.seed)
    if isinstance(run, AutoencoderRun):
        objective, dataset, shown = _autoencoder(run)
    elif isinstance(run, ClipRun):
        objective, dataset, shown = _clip(run)
    else:
        objective, dataset, shown = _latent_diffusion(run)
    trainer = Trainer(objective, dataset, run.loop, Path(run.output), to_yaml(run), shown)
    trainer.fit(resume)
    return trainer


def _autoencoder(run: AutoencoderRun) -> tuple[Objective, Dataset, Dataset]:
    train_set, held_out = _pictures(run.data)
    return AutoencoderObjective(run.autoencoder, run.loss), train_set, held_out


def _clip(run: ClipRun) -> tuple[Objective, Dataset, Dataset]:
    train_set, held_out = _pictures(run.data)
    captions = train_set.all_captions()
    return ClipObjective(run.clip, captions, Path(run.output)), train_set, held_out


def _latent_diffusion(run: LatentDiffusionRun) -> tuple[Objective, Dataset, Dataset]:
    autoencoder, latent_format = load_autoencoder(Path(run.autoencoder))
    text = load_text(Path(run.text)) if run.text else None
    unet = UNet(run.unet) if not run.initial else load_unet(Path(run.initial))
    cache = Path(run.data.folder) / ".cache"
    train_set, held_out = (LatentDataset(pictures, autoencoder, cache) for pictures in _pictures(run.data))
    objective = LatentDiffusionObjective(unet, autoencoder, latent_format, text, run.diffusion, run.data.size)
    return objective, train_set, held_out


def _pictures(data: DataConfig) -> tuple[PictureDataset, PictureDataset]:
    """The training pictures, and the held-out ones for previews."""
    folder = Path(data.folder)
    train_set = PictureDataset(folder, data.size, crop_fraction=data.crop_fraction)
    return train_set, PictureDataset(folder, data.size, split="held_out")
