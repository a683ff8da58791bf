"""Random degradations for training: which operations, how strong, all drawn from a seed and an index."""

from dataclasses import dataclass, fields

import numpy as np

from ldm.degradation.degrade import Degrade
from ldm.degradation.noises import Gaussian, Poisson, SaltAndPepper, Speckle
from ldm.degradation.operations import Blur, Clip, Down, Jpeg, Operation, Round, Up

Range = tuple[float, float]


@dataclass(frozen=True)
class DegradeConfig:
    """How pictures are spoilt in training: blur, resizing, one kind of noise, JPEG, in this order, then 8 bits.

    Attributes:
        blur: share of pictures that are blurred, half of them by different amounts along two axes.
        blur_sigma: standard deviations in pixels, from and to.
        resize: share of pictures that are made smaller and large again.
        resize_factors: whole factors, from and to; only those are used that divide the picture's sides.
        noise: share of pictures with noise; each kind with a range above 0 is equally likely.
        gaussian, salt_and_pepper, speckle, poisson: levels of each kind, from and to; (0, 0) leaves the kind out.
        jpeg: share of pictures that become JPEGs.
        jpeg_quality: from and to.
    """

    blur: float = 0.3
    blur_sigma: Range = (0.2, 3.0)
    resize: float = 0.3
    resize_factors: Range = (2, 4)
    noise: float = 0.8
    gaussian: Range = (0.0, 55.0)
    salt_and_pepper: Range = (0.0, 0.3)
    speckle: Range = (0.0, 0.3)
    poisson: Range = (5.0, 60.0)
    jpeg: float = 0.3
    jpeg_quality: Range = (10, 95)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float):
                if not 0 <= value <= 1:
                    raise ValueError(f"degrade.{each.name}={value} is no share; use 0 to 1")
                continue
            low, high = value
            if not 0 <= low <= high:
                raise ValueError(f"degrade.{each.name}=({low}, {high}) is no range; use two numbers, the smaller first")
        for bound in (0, 1):  # each operation checks its own levels
            self._noises(bound)
            Blur(self.blur_sigma[bound]), Jpeg(int(self.jpeg_quality[bound])), Up(int(self.resize_factors[bound]))

    def draw(self, seed: int, index: int, size: tuple[int, int]) -> Degrade:
        """The degradation of picture `index` of height and width `size`; nothing but the three decides it."""
        random = np.random.Generator(np.random.Philox(key=[seed % 2**64, index % 2**64]))
        shares = random.uniform(size=4)
        low_sigma, high_sigma = self.blur_sigma
        first, other = low_sigma * (high_sigma / low_sigma) ** random.uniform(size=2)  # weak ones as often as strong
        turned, angle = random.uniform() < 0.5, float(random.uniform(0, 180))
        low, high = map(int, self.resize_factors)
        fitting = [factor for factor in range(low, high + 1) if not (size[0] % factor or size[1] % factor)]
        factor = fitting[int(random.integers(len(fitting)))] if fitting else None
        level = float(random.uniform())
        noises = self._noises(level)
        noise = noises[int(random.integers(len(noises)))] if noises else None
        quality = int(random.integers(int(self.jpeg_quality[0]), int(self.jpeg_quality[1]) + 1))
        operations: list[Operation] = []
        if shares[0] < self.blur:
            operations.append(Blur(float(first), float(other), angle) if turned else Blur(float(first)))
        if shares[1] < self.resize and factor is not None:
            operations += [Down(factor), Up(factor)]
        if shares[2] < self.noise and noise is not None:
            operations.append(noise)
        if shares[3] < self.jpeg:
            operations.append(Jpeg(quality))
        return Degrade((*operations, Clip(), Round()), seed)

    def _noises(self, share: float) -> list[Operation]:
        """Every kind of noise that is used, so far along its range."""
        kinds = (
            (Gaussian, self.gaussian),
            (SaltAndPepper, self.salt_and_pepper),
            (Speckle, self.speckle),
            (Poisson, self.poisson),
        )
        return [kind(low + share * (high - low)) for kind, (low, high) in kinds if high > 0]
