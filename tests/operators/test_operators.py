"""The laws of operators: adjoint, pseudo-inverse and proximal step, for every kind, every chain and every size."""

import math

import pytest
import torch
from torch import Tensor

from ldm.degradation.operations import Blur as BlurDamage
from ldm.operators.composition import Composition, parse_operator
from ldm.operators.kinds import AreaDown, Blur, Crop, Grey, Identity, Mask
from ldm.operators.operator import Operator

SIZES = ((48, 32), (16, 16), (17, 5), (1, 1))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some(size: tuple[int, int]) -> Mask:
    """A mask that hides about half of the pixels."""
    return Mask(torch.rand(size, generator=torch.Generator().manual_seed(4)) < 0.5)


def operators(size: tuple[int, int]) -> dict[str, Operator]:
    """Every kind, and chains whose solution is closed or not, of pictures of a size."""
    height, width = size
    framed = tuple(edge + 3 for edge in size)
    made: dict[str, Operator] = {
        "identity": Identity(),
        "mask": some(size),
        "blur": Blur(1.5),
        "wide blur": Blur(20.0),
        "grey": Grey(),
        "none": Composition(),
        "grey, blur": Composition(Blur(0.8), Grey()),
        "grey, mask": Composition(Grey(), some(size)),
        "blur, blur": Composition(Blur(0.6), Blur(0.5)),
        "blur, mask": Composition(Blur(0.7), some(size)),
        "crop": Crop((max(1, height - 3), max(1, width - 3)), size),
        "crop, blur": Composition(Crop(size, (framed[0], framed[1])), Blur(0.8)),
    }
    for factor in (2, 4):
        if height % (2 * factor) == 0 and width % (2 * factor) == 0:
            small = (height // factor, width // factor)
            made |= {
                f"area {factor}": AreaDown(factor),
                f"blur, area {factor}": Composition(Blur(1.2), AreaDown(factor)),
                f"area {factor}, blur": Composition(AreaDown(factor), Blur(0.7)),
                f"area {factor}, blur, area 2, grey": Composition(AreaDown(factor), Blur(0.5), AreaDown(2), Grey()),
                f"area {factor}, mask": Composition(AreaDown(factor), some(small)),
                f"blur, area {factor}, mask": Composition(Blur(0.6), AreaDown(factor), some(small)),
            }
    return made


CASES = [(size, name) for size in SIZES for name in operators(size)]


def case(size: tuple[int, int], name: str) -> tuple[Operator, Tensor, Tensor]:
    """An operator, a batch of two pictures, and something of the form of their measurements."""
    operator = operators(size)[name]
    whole = operator.parts[0].whole if name == "crop, blur" else size  # type: ignore[attr-defined]
    x = normal(2, 3, *whole)
    return operator, x, normal(*operator(x).shape, seed=1)


@pytest.mark.parametrize(("size", "name"), CASES)
def test_the_adjoint_is_that_of_inner_products(size, name: str) -> None:
    operator, x, y = case(size, name)
    left, right = (operator(x) * y).sum().item(), (x * operator.adjoint(y)).sum().item()
    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
    half = (operator(x.float()) * y.float()).sum().item()
    assert half == pytest.approx(left, abs=1e-4 * math.sqrt(y.numel()))


@pytest.mark.parametrize(("size", "name"), CASES)
def test_the_pseudo_inverse_keeps_the_measurement_and_is_the_smallest(size, name: str) -> None:
    operator, x, _ = case(size, name)
    measured = operator(x)
    found = operator.pseudo_inverse(measured)
    torch.testing.assert_close(operator(found), measured, atol=1e-5, rtol=1e-5)
    missing = x - found  # in the null space, to which the smallest is orthogonal
    assert (missing * found).sum().item() == pytest.approx(0, abs=1e-3 * x.square().sum().item())


@pytest.mark.parametrize(("size", "name"), CASES)
@pytest.mark.parametrize(("r2", "s2"), [(0.3, 0.04), (1e-3, 1.0)])
def test_the_proximal_step_is_where_the_gradient_is_zero(size, name: str, r2: float, s2: float) -> None:
    operator, x, y = case(size, name)
    y = operator(operator.pseudo_inverse(y))  # nothing was measured that no picture has
    z = operator.prox(x, y, r2, s2)
    gradient = (z - x) / r2 - operator.adjoint(y - operator(z)) / s2
    scale = (x.abs().max() / r2 + y.abs().max() / s2).item()
    assert gradient.abs().max().item() <= 1e-5 * scale


@pytest.mark.parametrize(("size", "name"), CASES)
def test_the_ends_of_the_proximal_step(size, name: str) -> None:
    operator, x, y = case(size, name)
    y = operator(normal(*x.shape, seed=2))
    projected = x + operator.pseudo_inverse(y - operator(x))
    assert operator.prox(x, y, 0.0, 0.1) is x and operator.prox(x, y, 0.1, math.inf) is x
    assert torch.equal(operator.prox(x, y, 0.1, 0.0), projected)
    assert torch.equal(operator.prox(x, y, math.inf, 0.1), projected)
    torch.testing.assert_close(operator.prox(x, y, 1e-10, 0.1), x, atol=1e-7, rtol=1e-7)
    near = operator.prox(x, y, 1.0, 1e-9)
    torch.testing.assert_close(operator(near), operator(projected), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["blur", "blur, area 4", "area 2, mask", "grey"])
def test_the_proximal_step_is_the_mean_of_the_gaussian_posterior(name: str) -> None:
    """Against the dense formula S At (A S At + s2)^-1 with S = r2."""
    operator = operators((16, 16))[name]
    matrix = operator(torch.eye(3 * 256, dtype=torch.float64).view(-1, 3, 16, 16)).flatten(1).T
    x, y = normal(1, 3, 16, 16), operator(normal(1, 3, 16, 16, seed=5))
    r2, s2 = 0.3, 0.01
    inner = r2 * matrix @ matrix.T + s2 * torch.eye(len(matrix), dtype=torch.float64)
    step = r2 * matrix.T @ torch.linalg.solve(inner, y.flatten() - matrix @ x.flatten())
    torch.testing.assert_close(operator.prox(x, y, r2, s2), x + step.view_as(x), atol=1e-8, rtol=1e-8)


def test_inside_the_blur_is_that_of_damages() -> None:
    picture = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    spoilt = BlurDamage(2.0).apply(picture[0], torch.Generator())[None]
    ours = Blur(2.0)(picture)
    torch.testing.assert_close(ours[..., 6:-6, 6:-6], spoilt[..., 6:-6, 6:-6], atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 9, 7), 0.3)
    torch.testing.assert_close(Blur(5.0)(flat), flat)


@pytest.mark.parametrize(
    ("text", "factor", "kinds"),
    [
        ("identity", 1, ()),
        ("area-down=4", 4, (AreaDown,)),
        ("area_down=2, area-down=2", 4, (AreaDown, AreaDown)),
        ("blur=2,area-down=4,grey", 4, (Grey, Blur, AreaDown)),
    ],
)
def test_texts(text: str, factor: int, kinds: tuple[type, ...]) -> None:
    operator = parse_operator(text)
    assert operator.factor == factor and tuple(map(type, operator.parts)) == kinds


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("blurr=2", r"unknown operator 'blurr'; did you mean 'blur'"),
        ("", r"unknown operator ''; known: area-down, blur, grey, identity, mask"),
        ("blur", r"blur= is no number; write it as blur=2"),
        ("blur=0", r"blur=0 is out of range; use pixels above 0, at most 50"),
        ("blur=nan", r"blur=nan is out of range"),
        ("area-down=2.5", r"area-down=2.5 is out of range; use a whole factor from 1 to 16"),
        ("area-down=8,area-down=4", r"makes pictures 32 times smaller; use at most 16"),
        ("grey=1", r"grey=1: grey has no level; write grey"),
        ("grey,grey", r"takes the grey twice"),
        ("mask=m.png", r"a mask is an option of its own; give --mask MASK.png"),
    ],
)
def test_what_is_no_operator_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        parse_operator(text)


def test_an_operator_that_does_not_fit_says_so() -> None:
    with pytest.raises(ValueError, match=r"area-down=4 does not fit a picture of 6 x 8 px"):
        AreaDown(4)(torch.zeros(1, 3, 8, 6))
    with pytest.raises(ValueError, match=r"the mask has 5 x 4 pixels, and what it covers 6 x 8"):
        Mask(torch.ones(4, 5, dtype=torch.bool))(torch.zeros(1, 3, 8, 6))
