"""Mean and variance of a data set's latents, and the scale factor that follows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from autoencoder.build import Autoencoder
from autoencoder.latent_format import measure_latents


@dataclass(frozen=True)
class LatentStatistics:
    """Moments of an autoencoder's latents, posterior noise included.

    Attributes:
        mean: of each channel.
        std: standard deviation of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measure(cls, autoencoder: Autoencoder, batches: Iterable[Tensor]) -> "LatentStatistics":
        """Measure the latents of pictures.

        Args:
            autoencoder: the one whose latents are measured.
            batches: pictures (B, 3, H, W) in [-1, 1], taken one after the other.

        Raises:
            ValueError: there are no pictures.
        """
        mean, std = measure_latents(autoencoder, batches)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @property
    def scale(self) -> float:
        """1 / standard deviation of all channels together (Rombach et al. 2022, appendix G: 0.18215 is such a number).

        Raises:
            ValueError: the latents are constant.
        """
        count = len(self.mean)
        centre = sum(self.mean) / count
        variance = sum(s * s + m * m for m, s in zip(self.mean, self.std, strict=True)) / count - centre * centre
        if variance <= 0:
            raise ValueError(f"std={self.std} holds no channel that varies; train the autoencoder longer")
        return 1.0 / math.sqrt(variance)
