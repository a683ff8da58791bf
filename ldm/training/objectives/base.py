"""The protocols of the training loop: objectives (a loss with its trained modules) and samples."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

Batch = dict[str, Any]


class Objective(Protocol):
    """A loss with its trainable modules. The autoencoder, CLIP and latent diffusion each supply one.

    Attributes:
        trained_modules: each trained by an optimizer of its own (adversarial training has two), in
            the order in which they step. Their parameters are fp32.
    """

    trained_modules: dict[str, nn.Module]

    def loss(
        self, module_name: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        """The scalars of one batch, which are all logged.

        Args:
            module_name: `"loss"` is differentiated with respect to `trained_modules[module_name]`.
            batch: B samples.
            generators: one seeded CPU generator per sample, the only source of randomness allowed.
            samples_seen: the clock of the training.

        Returns:
            Scalars by name; None where the module is not trained in this step.
        """
        ...

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Named pictures (N, 3, H, W) in [0, 1] that show how `modules` (the averages) do on a fixed batch."""
        ...


@runtime_checkable
class Validated(Protocol):
    """An objective whose loss is a function of a time, so that it can be taken at fixed ones."""

    def errors(
        self, batch: Batch, modules: dict[str, nn.Module], generators: list[torch.Generator], quantiles: Tensor
    ) -> Tensor:
        """The squared error of each sample (B,), unweighted, fp32, for `modules` in the place of the trained modules.

        `quantiles`, float64 (B,) in (0, 1), are places on the axis of times from no noise to pure noise; noise comes
        from `generators`; nothing is dropped.
        """
        ...


class Dataset(Protocol):
    """Samples by id."""

    @property
    def weights(self) -> np.ndarray:
        """How often each sample is drawn, relative to the others: (n,), >= 0."""
        ...

    def __len__(self) -> int: ...

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One sample, with every random choice (crop, caption) drawn from `generator`."""
        ...


@runtime_checkable
class Grouped(Dataset, Protocol):
    """A dataset whose samples do not all stack: those of one group do."""

    @property
    def groups(self) -> np.ndarray | None:
        """The group of each sample, (n,) integers >= 0; None where all samples stack."""
        ...
