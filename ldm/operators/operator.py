"""A linear operator A: what a measurement y = A x + noise sees of a picture, and how both are brought together."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

_MOST_ITERATIONS, _TOLERANCE = 200, 1e-6


class Operator(ABC):
    """A linear map of pictures (B, C, H, W) to measurements (B, c, h, w).

    Attributes:
        factor: how many times smaller a measurement is than the picture.
    """

    factor: int = 1

    @property
    def gram(self) -> float | None:
        """c where A At = c: where its rows are orthogonal and of one length; None elsewhere."""
        return None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x: picture (B, C, H, W) -> measurement (B, c, h, w).

        Raises:
            ValueError: it does not fit the size.
        """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """At y: measurement (B, c, h, w) -> (B, C, H, W), with <A x, y> = <x, At y>."""

    def solve(self, y: Tensor, r2: float, s2: float) -> Tensor:
        """(s2 + r2 A At)^-1 y, or its pseudo-inverse where that is singular.

        Args:
            y: (B, c, h, w).
            r2: above 0.
            s2: 0 or above.
        """
        if self.gram is not None:
            return y / (s2 + r2 * self.gram)
        return conjugate_gradients(lambda v: s2 * v + r2 * self(self.adjoint(v)), y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """The smallest picture (B, C, H, W) whose measurement is nearest to y."""
        return self.adjoint(self.solve(y, 1.0, 0.0))

    def prox(self, x: Tensor, y: Tensor, r2: float, s2: float) -> Tensor:
        """The picture between a guess and a measurement: argmin |z - x|^2 / 2 r2 + |y - A z|^2 / 2 s2.

        It is the mean of z under the prior N(x, r2) and y = A z + N(0, s2). At s2 = 0, and at r2 = inf, it is
        x + A+ (y - A x), the nearest picture that has the measurement; at r2 = 0, and at s2 = inf, it is x.

        Args:
            x: (B, C, H, W).
            y: (B or 1, c, h, w).
            r2: variance of the guess, 0 to inf.
            s2: variance of the measurement, 0 to inf.
        """
        if r2 == 0 or math.isinf(s2):
            return x
        if s2 == 0 or math.isinf(r2):
            return x + self.pseudo_inverse(y - self(x))
        return x + r2 * self.adjoint(self.solve(y - self(x), r2, s2))


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """The smallest solution v of M v = b (Hestenes and Stiefel 1952), for each of a batch by itself.

    Args:
        matrix: M, symmetric and positive semidefinite.
        b: (B, c, h, w), in the range of M.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).view(-1, *[1] * (u.ndim - 1))

    solution, residual = b.new_zeros(b.shape), b
    direction, square = residual, dot(residual, residual)
    enough = _TOLERANCE**2 * square
    for _ in range(_MOST_ITERATIONS):
        if bool((square <= enough).all()):
            break
        image = matrix(direction)
        curvature = dot(direction, image)
        length = (square / curvature).nan_to_num(0.0, 0.0, 0.0) * (square > enough)
        solution, residual = solution + length * direction, residual - length * image
        previous, square = square, dot(residual, residual)
        direction = residual + (square / previous).nan_to_num(0.0, 0.0, 0.0) * direction
    return solution
