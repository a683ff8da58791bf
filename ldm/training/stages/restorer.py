"""Stage for the restorer: damaged pictures to clean ones, in pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.restoration import RestorationDataConfig, RestorationDataset
from ldm.data.sources.open_source import HELD_OUT, TRAIN, open_source
from ldm.degradation.known_damage import KINDS
from ldm.io.folder.restorer import load_restorer, save_restorer
from ldm.io.locate import find_restorer
from ldm.naming import look_up
from ldm.networks.restorer.config import RestorerConfig, RestorerLossConfig
from ldm.networks.restorer.model import Restorer
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.objectives.restorer import RestorerObjective
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import bad_pictures_of

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class RestorerRun:
    """Damaged pictures to clean ones.

    Attributes:
        initial: restorer that the training starts from, in place of random weights of the shape `restorer`.
        finder_only: train only the part of `initial` that names the damage; what pictures become stays as it is.
        export_dtype: of the exported weights, fp32 or fp16.
    """

    task: str = "restorer"
    output: str = ""
    data: RestorationDataConfig = field(default_factory=RestorationDataConfig)
    initial: str = ""
    finder_only: bool = False
    restorer: RestorerConfig = field(default_factory=RestorerConfig)
    loss: RestorerLossConfig = field(default_factory=RestorerLossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    export_dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.finder_only and not self.initial:
            raise ValueError("finder_only=True has no network to look with; name a restorer's folder in initial")
        look_up("export_dtype", self.export_dtype, _DTYPES)
        if sorted(self.restorer.kinds) != sorted(KINDS):
            raise ValueError(f"restorer.kinds={list(self.restorer.kinds)} must be all of {', '.join(KINDS)}")

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`."""
        data, bad_pictures = self.data, bad_pictures_of(self.output)

        def opened(split: str) -> RestorationDataset:
            source = open_source(data.all_sources, split, data.held_out, captioned=False, progress=progress)
            pictures = PictureDataset(
                source, data.size, crop_fraction=0.5, bad_pictures=bad_pictures, progress=progress
            )
            return RestorationDataset(pictures, data, restorer.config.kinds, split)

        restorer = load_restorer(find_restorer(self.initial)) if self.initial else Restorer(self.restorer)
        objective = RestorerObjective(restorer, self.loss, self.finder_only)
        return Stage(objective, opened(TRAIN), opened(HELD_OUT), partial(write_restorer, _DTYPES[self.export_dtype]))

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        return [NetworkEstimate("restorer", partial(Restorer, self.restorer), partial(_restore, self.data.crop))]


def write_restorer(dtype: torch.dtype, folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write what `load_restorer` opens into `folder`."""
    restorer = modules["restorer"]
    assert isinstance(restorer, Restorer)
    save_restorer(restorer, folder, dtype)


def _restore(size: int, restorer: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a restorer on crops of `size`."""
    assert isinstance(restorer, Restorer)
    images = torch.zeros(samples, 3, size, size, device=device)
    restored = restorer(images, torch.zeros(samples, 2 * len(restorer.config.kinds), device=device))
    found = restorer.finder(images)
    return restored.abs().mean() + found.chances.mean() + found.levels.mean()
