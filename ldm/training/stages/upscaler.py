"""Stage for the upscaler: small decoded pictures to large crisp ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.open_source import open_source
from ldm.data.upscaling import UpscalingDataConfig, UpscalingDataset
from ldm.io.folder.autoencoder import load_autoencoder
from ldm.io.folder.upscaler import save_upscaler
from ldm.io.locate import resolve_model
from ldm.networks.upscaler.config import UpscalerConfig, UpscalerLossConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.objectives.upscaler import UpscalerObjective
from ldm.training.stages.base import NetworkEstimate, Stage, discriminators
from ldm.training.stages.datasets import bad_pictures_of


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

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`."""
        autoencoder, _ = load_autoencoder(resolve_model("autoencoder", self.autoencoder))
        bad_pictures = bad_pictures_of(self.output)

        def opened(split: str, whole: bool) -> UpscalingDataset:
            source = open_source(self.data.all_sources, split, self.data.held_out, captioned=False, progress=progress)
            pictures = PictureDataset(source, self.data.size, bad_pictures=bad_pictures, progress=progress)
            factor = self.upscaler.factor
            return UpscalingDataset(pictures, autoencoder, pictures.cache, factor, self.data, whole, progress)

        train_set, previews = opened("train", whole=False), opened("held_out", whole=True)
        return Stage(UpscalerObjective(self.upscaler, self.loss), train_set, previews, write_upscaler)

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        low, high = self.data.crop, self.data.crop * self.upscaler.factor
        found = [NetworkEstimate("upscaler", partial(Upscaler, self.upscaler), partial(_upscale, low))]
        return found + discriminators(self.loss, 3, high)


def write_upscaler(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write `folder/upscaler`, which `load_upscaler` opens."""
    upscaler = modules["upscaler"]
    assert isinstance(upscaler, Upscaler)
    save_upscaler(upscaler, folder / "upscaler")


def _upscale(size: int, upscaler: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of an upscaler on crops of `size`, without the perceptual network."""
    return upscaler(torch.zeros(samples, 3, size, size, device=device)).abs().mean()
