"""The loss of held-out samples, the same ones at the same times and with the same noise whenever it is taken.

The loss of a training step is mostly chance: which samples, times and noise it drew. Here nothing changes but the
weights, so a difference between two values is one of the network.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import default_collate

from ldm.training.batches.loader import to_device
from ldm.training.batches.random_streams import Stream
from ldm.training.batches.sample_order import generator_for
from ldm.training.config import LoopConfig
from ldm.training.objectives.base import Batch, Dataset, Objective, Validated
from ldm.training.optimization.trained_module import TrainedModule

_BATCH = 32


class Validation:
    """When the validation loss of a training is due, and what it is.

    Args:
        objective: whose errors.
        dataset: held-out samples.
        config: how often, how many, and which average.
        accelerator: of the training; its main process does the work.

    Raises:
        ValueError: `validate_every` is set for an objective that has no times.
    """

    def __init__(self, objective: Objective, dataset: Dataset, config: LoopConfig, accelerator: Accelerator) -> None:
        if config.validate_every and not isinstance(objective, Validated):
            raise ValueError(
                f"loop.validate_every={config.validate_every} is for denoisers (task: ldm or distill), whose loss has"
                " fixed times; set it to 0"
            )
        self._objective, self._dataset, self._config, self._accelerator = objective, dataset, config, accelerator

    def is_due(self, samples_seen: int) -> bool:
        """Whether the last step crossed a multiple of `validate_every`."""
        every = self._config.validate_every
        return every > 0 and samples_seen // every > (samples_seen - self._config.batch_size) // every

    def __call__(self, trained_modules: dict[str, TrainedModule]) -> dict[str, float]:
        """The validation losses by name. All processes have to call this.

        Returns:
            `validation/loss` of the average that is exported, its `validation/quarter_1` to `_4` (see
            `validation_losses`), and `validation_raw/loss` of the newest weights. Empty on all processes but the main
            one, for which the others wait at their next reduction.
        """
        main = self._accelerator.is_main_process
        sides = {
            side: {name: trained_module.weights(half_life, main) for name, trained_module in trained_modules.items()}
            for side, half_life in (("validation", self._config.export_half_life), ("validation_raw", 0.0))
        }
        if not main:
            return {}
        assert isinstance(self._objective, Validated)
        found: dict[str, float] = {}
        for side, modules in sides.items():
            with self._accelerator.autocast():
                losses = validation_losses(
                    self._objective,
                    self._dataset,
                    {name: module.to(self._accelerator.device) for name, module in modules.items()},
                    self._config.validation_samples,
                    self._config.seed,
                    self._accelerator.device,
                )
            found |= {f"{side}/{key}": value for key, value in losses.items() if side == "validation" or key == "loss"}
        return found


@torch.no_grad()
def validation_losses(
    objective: Validated,
    dataset: Dataset,
    modules: dict[str, nn.Module],
    count: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """The mean squared error over `count` samples of a dataset, a function of its arguments alone.

    Samples are taken at equal distances; times are the middles of `count` equal parts of the axis of times, handed out
    in a random order, so they are evenly spread and independent of the samples.

    Returns:
        `loss`, and `quarter_1` (least noise) to `quarter_4`: the means over each quarter of the axis, where there are
        at least four samples.
    """
    count = min(count, len(dataset))
    quantiles = (
        torch.randperm(count, generator=generator_for(seed, count, Stream.VALIDATION_TIMES)).double() + 0.5
    ) / count
    errors = torch.empty(count, dtype=torch.float64)
    for places, batch in _batches(dataset, count, seed, device):
        generators = [generator_for(seed, place, Stream.VALIDATION_LOSS) for place in places]
        errors[places] = objective.errors(batch, modules, generators, quantiles[places]).double().cpu()
    quarters = (4 * quantiles).long()
    means = {f"quarter_{i + 1}": float(errors[quarters == i].mean()) for i in range(4) if count >= 4}
    return {"loss": float(errors.mean()), **means}


def _batches(dataset: Dataset, count: int, seed: int, device: torch.device) -> Iterator[tuple[list[int], Batch]]:
    """The samples in batches of one shape each, with their places among the `count`."""
    ids = [place * len(dataset) // count for place in range(count)]
    for start in range(0, count, _BATCH):
        places = range(start, min(start + _BATCH, count))
        items = {
            i: {**dataset.item(ids[i], generator_for(seed, i, Stream.VALIDATION_LOADING)), "index": i} for i in places
        }
        for _, group in groupby(sorted(places, key=lambda i: _shapes(items[i])), key=lambda i: _shapes(items[i])):
            chosen = list(group)
            batch = default_collate([items[i] for i in chosen])
            yield chosen, to_device(batch, device)


def _shapes(item: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    return [(key, tuple(value.shape)) for key, value in sorted(item.items()) if isinstance(value, Tensor)]
