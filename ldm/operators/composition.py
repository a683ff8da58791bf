"""Operators one after another, and the text that says them: `blur=2,area-down=4`."""

from functools import reduce

from torch import Tensor

from ldm.naming import look_up
from ldm.operators.kinds import AreaDown, Blur, Crop, Grey, Identity, Mask, solve_mirrored
from ldm.operators.operator import Operator

LARGEST_BLUR, LARGEST_FACTOR = 50.0, 16


class Composition(Operator):
    """Operators, the first applied first.

    `solve` is closed where A At is known: of blurs and block means, and of anything behind operators whose own A At is
    a number (crop, grey, block means); elsewhere it is found by conjugate gradients.

    Args:
        operators: in order; grey commutes with the others, and so comes first.
    """

    def __init__(self, *operators: Operator) -> None:
        parts = [part for each in operators for part in (each.parts if isinstance(each, Composition) else (each,))]
        parts = [part for part in parts if not isinstance(part, Identity)]
        self.parts: tuple[Operator, ...] = tuple(sorted(parts, key=_place))
        self.factor = reduce(lambda factor, part: factor * part.factor, self.parts, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Operator`."""
        return reduce(lambda value, part: part(value), self.parts, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """See `Operator`."""
        return reduce(lambda value, part: part.adjoint(value), reversed(self.parts), y)

    def solve(self, y: Tensor, r2: float, s2: float) -> Tensor:
        """See `Operator`."""
        rest = self.parts
        while rest and (gram := rest[0].gram) is not None:  # A B Bt At = c A At
            rest, r2 = rest[1:], r2 * gram
        if not rest:
            return y / (s2 + r2)
        if len(rest) == 1:
            return rest[0].solve(y, r2, s2)
        if all(isinstance(part, Blur | AreaDown) for part in rest):
            return solve_mirrored(tuple(part for part in rest if isinstance(part, Blur | AreaDown)), y, r2, s2)
        if rest != self.parts:
            return Composition(*rest).solve(y, r2, s2)
        return super().solve(rest[-1](y) if isinstance(rest[-1], Mask) else y, r2, s2)


def _place(operator: Operator) -> int:
    return 0 if isinstance(operator, Crop) else 1 if isinstance(operator, Grey) else 2


def parse_operator(text: str) -> Composition:
    """The operator of a text such as `blur=2,area-down=4`: a blur first, and then block means of 4 x 4 pixels.

    Raises:
        ValueError: an unknown name, of which it offers the nearest, or a level that is out of range.
    """
    parts = []
    for each in text.split(","):
        name, _, level = each.strip().partition("=")
        parts.append(look_up("operator", name.strip().replace("_", "-"), _KINDS)(level.strip()))
    if sum(isinstance(part, Grey) for part in parts) > 1:
        raise ValueError(f"operator {text!r} takes the grey twice; write it once")
    made = Composition(*parts)
    if made.factor > LARGEST_FACTOR:
        raise ValueError(f"operator {text!r} makes pictures {made.factor} times smaller; use at most {LARGEST_FACTOR}")
    return made


def _area_down(level: str) -> Operator:
    factor = _number("area-down", level, "4")
    if not factor.is_integer() or not 1 <= factor <= LARGEST_FACTOR:
        raise ValueError(f"area-down={level} is out of range; use a whole factor from 1 to {LARGEST_FACTOR}")
    return AreaDown(int(factor))


def _blur(level: str) -> Operator:
    sigma = _number("blur", level, "2")
    if not 0 < sigma <= LARGEST_BLUR:
        raise ValueError(f"blur={level} is out of range; use pixels above 0, at most {LARGEST_BLUR:g}")
    return Blur(sigma)


def _number(name: str, level: str, example: str) -> float:
    try:
        return float(level)
    except ValueError:
        raise ValueError(f"{name}={level} is no number; write it as {name}={example}") from None


def _without_level(operator: Operator, name: str, level: str) -> Operator:
    if level:
        raise ValueError(f"{name}={level}: {name} has no level; write {name}")
    return operator


def _mask(level: str) -> Operator:
    raise ValueError("a mask is an option of its own; give --mask MASK.png, in Python mask_image=...")


_KINDS = {
    "identity": lambda level: _without_level(Identity(), "identity", level),
    "area-down": _area_down,
    "blur": _blur,
    "grey": lambda level: _without_level(Grey(), "grey", level),
    "mask": _mask,
}
