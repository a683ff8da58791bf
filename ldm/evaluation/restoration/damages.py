"""The damages of the bench, and a damaged picture with all that a method may know of it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.degradation.degrade import Degrade
from ldm.degradation.noises import Gaussian, Poisson, Speckle
from ldm.degradation.operations import Blur

_HOLE = 40
_GREY = 128 / 255


@dataclass(frozen=True)
class Damage:
    """One way in which pictures of the bench are spoilt; 8 bits at the end, as in a file.

    Attributes:
        name: in tables.
        text: of the operations, see `Degrade`.
        hole: edge of a square that is missing, at a place that depends on the picture's number; 0 for none.
    """

    name: str
    text: str = ""
    hole: int = 0

    def __call__(self, truth: Tensor, number: int, seed: int = 0) -> "Damaged":
        """truth (3, H, W) in [0, 1], the picture of this number -> damaged, always in the same way.

        Raises:
            ValueError: the picture is too small for it.
        """
        degrade = Degrade.parse(f"{self.text},clip,round", seed)
        height, width = truth.shape[1:]
        picture, mask = degrade(truth, number), None
        if self.hole:
            if min(height, width) <= self.hole:
                raise ValueError(f"a hole of {self.hole} px does not fit a picture of {width} x {height} px")
            mask = torch.zeros(height, width, dtype=torch.bool)
            random = torch.Generator().manual_seed(seed * 1_000_003 + number)
            quarter = [(edge - self.hole) // 4 for edge in (height, width)]  # in the middle, where the object is
            top, left = (q + int(torch.randint(2 * q + 1, (1,), generator=random)) for q in quarter)
            mask[top : top + self.hole, left : left + self.hole] = True
            picture = torch.where(mask, _GREY, picture)
        return Damaged(picture, self, (height, width), mask)

    @property
    def sd(self) -> Callable[[Tensor], Tensor] | None:
        """The deviation of its noise where the picture is mu; None where that says nothing."""
        for operation in Degrade.parse(self.text).operations:
            match operation:
                case Gaussian(sd=sd):
                    return lambda mu: torch.full_like(mu, sd / 255)
                case Speckle(sd=sd):
                    return lambda mu: sd * mu
                case Poisson(peak=peak):
                    return lambda mu: (mu.clamp(min=0) / peak).sqrt()
        return None

    @property
    def blur(self) -> Blur:
        """The blur of it.

        Raises:
            ValueError: it has none.
        """
        for operation in Degrade.parse(self.text).operations:
            if isinstance(operation, Blur):
                return operation
        raise ValueError(f"{self.name} has no blur")


@dataclass(frozen=True)
class Damaged:
    """What a method is given.

    Attributes:
        picture: (3, h, w) in [0, 1] of 8 bits.
        damage: what was done, which methods that are not blind may know.
        size: height and width of the truth.
        mask: (h, w), where pixels are missing; None where there are none.
    """

    picture: Tensor
    damage: Damage
    size: tuple[int, int]
    mask: Tensor | None = None


DAMAGES = {
    damage.name: damage
    for damage in (
        Damage("gaussian 15", "gaussian=15"),
        Damage("gaussian 25", "gaussian=25"),
        Damage("gaussian 50", "gaussian=50"),
        Damage("salt and pepper 5 %", "salt_and_pepper=0.05"),
        Damage("salt and pepper 20 %", "salt_and_pepper=0.2"),
        Damage("speckle 0.2", "speckle=0.2"),
        Damage("poisson 30", "poisson=30"),
        Damage("blur 2, noise 5", "blur=2,gaussian=5"),
        Damage("jpeg 10", "jpeg=10"),
        Damage("jpeg 30", "jpeg=30"),
        Damage("x2", "down=2"),
        Damage("x4", "down=4"),
        Damage("hole 40", "", _HOLE),
    )
}
