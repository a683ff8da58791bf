"""How far a model's denoiser is from the truth at each level of noise, in pixels: a table that is measured once."""

import math
from dataclasses import dataclass

from torch import Tensor

ROWS = 32
_AUTOENCODER = 0.004
"""(2 * 10 ** (-30 / 20)) ** 2, of an autoencoder of 30 dB, on pixels in [-1, 1]."""


@dataclass(frozen=True)
class DenoisingError:
    """The mean squared error of decoded predictions, on pixels in [-1, 1].

    Row i is at atan(sigma / alpha) = i / (n - 1) of a right angle: the first is the autoencoder's own error, without
    any noise, the last is that of pure noise. It is the same level for VP, EDM and flow.

    Attributes:
        errors: the n rows, above 0.
        pictures: how many were measured.
    """

    errors: tuple[float, ...]
    pictures: int = 0

    @property
    def autoencoder(self) -> float:
        """The error that is left without any noise."""
        return self.errors[0]

    def of_denoiser(self, alpha: float, sigma: float) -> float:
        """What of the error at a level is the denoiser's, without the autoencoder's own.

        Args:
            alpha: scale of the picture.
            sigma: scale of the noise.
        """
        return max(0.0, self.at(alpha, sigma) - self.autoencoder)

    def of_latents(self, alpha: float, sigma: float) -> float:
        """The mean squared error of predicted latents, whose variance is about 1: all of it in pure noise.

        Args:
            alpha: scale of the picture.
            sigma: scale of the noise.
        """
        return min(1.0, self.of_denoiser(alpha, sigma) / max(self.of_denoiser(0.0, 1.0), 1e-12))

    def at(self, alpha: float, sigma: float) -> float:
        """The error at a level, its logarithm linear between rows.

        Args:
            alpha: scale of the picture.
            sigma: scale of the noise.
        """
        place = math.atan2(sigma, alpha) / (math.pi / 2) * (len(self.errors) - 1)
        before = min(int(place), len(self.errors) - 2)
        low, high = (math.log(error) for error in self.errors[before : before + 2])
        return math.exp(low + (place - before) * (high - low))


def angle_of(row: int) -> float:
    """atan(sigma / alpha) of a row of `ROWS`."""
    return row / (ROWS - 1) * math.pi / 2


USUAL = DenoisingError(tuple(_AUTOENCODER + math.sin(angle_of(row)) ** 2 for row in range(ROWS)))
"""Of models without a table: sigma^2 / (alpha^2 + sigma^2), as of pixels that know nothing of each other."""


def pixel_error(first: Tensor, second: Tensor) -> float:
    """The mean squared difference of pictures in [0, 1], on the scale of [-1, 1]."""
    return 4 * (first - second).square().mean().item()
