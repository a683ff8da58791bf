"""The smallest objective: a line through points, with a dataset that can hold bad numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.training.config import LoopConfig
from ldm.training.loop import Trainer
from ldm.training.objectives.base import Dataset, Objective
from ldm.training.stages.base import Stage

QUICK = LoopConfig(
    samples=64,
    batch_size=8,
    learning_rate=0.05,
    warmup=2,
    precision="fp32",
    log_every=8,
    preview_every=0,
    save_minutes=0,
    trackers=(),
    ema_half_life=16,
)


class Points:
    """64 points (3,) with y = sum of the coordinates; those in `bad` are NaN."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 3, generator=generator)
        self.y = self.x.sum(1)
        self.x[list(bad)] = float("nan")
        self.weights = np.ones(64)

    def __len__(self) -> int:
        return len(self.x)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"x": self.x[index], "y": self.y[index]}


class Regression:
    """A linear network with batch norm, so that a forward pass leaves something behind."""

    def __init__(self, width: int = 3) -> None:
        torch.manual_seed(0)
        self.trained_modules: dict[str, nn.Module] = {
            "line": nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, width), nn.Linear(width, 1))
        }

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        noise = torch.stack([torch.randn((), generator=g) for g in generators])
        found = self.trained_modules[module_name](batch["x"]).squeeze(1)
        return {"loss": (found - batch["y"] - 0.01 * noise).square().mean()}

    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class LineConfig:
    """The hidden width of the network."""

    width: int = 3


@dataclass(frozen=True)
class LineRun:
    """The settings of such a training, or of another objective in its place."""

    task: str = "line"
    output: str = ""
    net: LineConfig = field(default_factory=LineConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def export_line(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write the network into `line.safetensors`."""
    save_file(modules["line"].state_dict(), folder / "line.safetensors")


def trainer_of(
    objective: Objective, dataset: Dataset, loop: LoopConfig, folder: Path, export: Callable[..., None] = export_line
) -> Trainer:
    """A trainer of any objective, previewed on its training data."""
    return Trainer(Stage(objective, dataset, dataset, export), LineRun(output=str(folder), loop=loop))


def trainer(
    folder: Path, bad: Sequence[int] = (), width: int = 3, objective: Objective | None = None, **settings: Any
) -> Trainer:
    """A trainer of the line with `settings` of the loop changed."""
    run = LineRun(output=str(folder), net=LineConfig(width), loop=replace(QUICK, **settings))
    points = Points(bad)
    return Trainer(Stage(objective or Regression(width), points, points, export_line), run)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """The newest weights, copied."""
    return {name: value.clone() for name, value in trainer.trained_modules["line"].module.state_dict().items()}
