"""Stage 1: an autoencoder, pictures to latents and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.build import build_autoencoder
from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import fold_whitening
from autoencoder.statistics import LatentStatistics
from autoencoder.training.objective import AutoencoderObjective
from autoencoder.training.trainable import Trained, trained
from autoencoder.vq import VQAutoencoder
from ldm.io.disk.files import write_folder, write_json
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder
from ldm.io.folder.latent_statistics import settled_config, write_statistics
from ldm.io.locate import resolve_model
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.objectives.base import Dataset
from ldm.training.stages.base import NetworkEstimate, Stage, discriminators
from ldm.training.stages.datasets import DataConfig, open_pictures, require_bucket_step
from ldm.training.stages.latent_statistics import measure_dataset

_MEASURED = 1024  # pictures that the latents' statistics rest on; 256 numbers each at 64 px


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

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`."""
        train_set, previews = open_pictures(self.data, self.output, captioned=False, progress=progress)
        if self.initial:
            autoencoder, _ = load_autoencoder(resolve_model("initial", self.initial))
        else:
            autoencoder = build_autoencoder(self.autoencoder)
        require_bucket_step(self.data, autoencoder.config.factor)
        objective = AutoencoderObjective(autoencoder, self.loss, self.decoder_only)
        return Stage(objective, train_set, previews, partial(self.export, train_set, progress))

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        found = [NetworkEstimate("autoencoder", self._trained, partial(_reconstruct, self.data.size))]
        return found + discriminators(self.loss, self.autoencoder.in_channels, self.data.size)

    def export(self, dataset: Dataset, progress: Progress, folder: Path, modules: Mapping[str, nn.Module]) -> None:
        """Write `folder/vae` as diffusers has it, and how its latents are scaled.

        After decoder-only training the scale is that of before. Otherwise every channel gets mean 0 and deviation 1
        over pictures of `dataset`, as the noise has, folded into `quant_conv`; a codebook or a missing `quant_conv`
        leaves no place for that but for one scale.
        """
        write_autoencoder(folder, modules)
        if self.decoder_only:
            write_json(folder / "vae" / "config.json", settled_config(resolve_model("initial", self.initial)))
            return
        autoencoder, _ = load_autoencoder(folder)
        statistics = measure_dataset(autoencoder, dataset, _MEASURED, progress)
        if isinstance(autoencoder, KLAutoencoder) and autoencoder.quant_conv is not None:
            fold_whitening(autoencoder, torch.tensor(statistics.mean), torch.tensor(statistics.std))
            channels = len(statistics.mean)
            statistics = LatentStatistics(mean=(0.0,) * channels, std=(1.0,) * channels)
            with write_folder(folder / "vae") as temporary:
                save_autoencoder(autoencoder, temporary)
        write_statistics(folder, statistics, _MEASURED, self.data.size)

    def _trained(self) -> Trained:
        return trained(build_autoencoder(self.autoencoder), self.loss, self.decoder_only)


def write_autoencoder(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write the trained module as `folder/vae`, without a scale: nobody has measured these latents yet."""
    module = modules["autoencoder"]
    assert isinstance(module, Trained)
    save_autoencoder(module.model, folder / "vae", scaling_factor=None)


def _reconstruct(size: int, module: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of an autoencoder on pictures of `size`, without the perceptual network and the search for codes."""
    assert isinstance(module, Trained)
    model = module.model
    image = torch.zeros(samples, model.config.in_channels, size, size, device=device)
    if isinstance(model, VQAutoencoder):
        return model.decode_codes(model.encode(image).mean).float().square().mean()
    small = size // model.config.factor
    output, posterior = model(image, torch.zeros(samples, model.config.latent_channels, small, small, device=device))
    return output.float().square().mean() + posterior.kl().mean()
