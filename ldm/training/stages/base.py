"""A stage of training: its settings as a dataclass, what it builds from them, and the networks that it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from autoencoder.config import LossConfig
from autoencoder.training.discriminator import PatchDiscriminator
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.estimate.flops_and_activations import Pass
from ldm.training.objectives.base import Dataset, Objective


@dataclass(frozen=True)
class NetworkEstimate:
    """A module in training: how it is built, a pass of samples through it, and what is not known of it."""

    name: str
    build: Callable[[], nn.Module]
    run: Pass
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """Everything that a training works with.

    Attributes:
        objective: the loss with its trained modules, complete.
        dataset: what is trained on.
        preview_dataset: held-out samples for previews and validation.
        export: `(folder, modules)` writes what users of the trained model need into an existing folder, from the
            averaged trained modules.
    """

    objective: Objective
    dataset: Dataset
    preview_dataset: Dataset
    export: Callable[[Path, Mapping[str, nn.Module]], None]


class Run(Protocol):
    """The settings of a training as loop, checkpoints and trackers read them: a dataclass, kept on disk as YAML."""

    @property
    def output(self) -> str:
        """The folder of the training."""
        ...

    @property
    def loop(self) -> LoopConfig:
        """The settings that do not depend on the stage."""
        ...


class StageConfig(Run, Protocol):
    """The settings of a stage, as a YAML file holds them; each stage has a dataclass of its own."""

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """Open data and networks; networks that fill caches do so on `device`, reporting to `progress`."""
        ...

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """The trained modules in the order in which they step, to be built without weights and data.

        Args:
            factor: pixels for a latent cell along each axis, of the autoencoder that a denoiser works with.
        """
        ...


def discriminators(loss: LossConfig, channels: int, size: int) -> list[NetworkEstimate]:
    """The discriminator of pictures of `size`, if a recipe has one."""
    if loss.discriminator_weight == 0:
        return []
    build = partial(PatchDiscriminator, channels, loss.discriminator_width, loss.discriminator_levels)
    return [NetworkEstimate("discriminator", build, partial(_judge, channels, size))]


def _judge(channels: int, size: int, discriminator: nn.Module, samples: int, device: torch.device) -> torch.Tensor:
    """The loss of a discriminator on as many pictures as reconstructions."""
    return discriminator(torch.zeros(2 * samples, channels, size, size, device=device)).float().mean()
