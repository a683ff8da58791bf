import pytest
import torch

from ldm.degradation.degrade import Degrade
from ldm.degradation.known_damage import KINDS, shares


@pytest.mark.parametrize("name", KINDS)
def test_levels_and_shares_are_inverse_and_monotone(name):
    kind = KINDS[name]
    grid = [0.1, 0.4, 0.7, 1.0]
    assert [kind.share(kind.level(share)) for share in grid] == pytest.approx(grid)
    assert kind.share(kind.strongest) == pytest.approx(1)
    assert 0 <= kind.share(kind.weakest) < 0.3
    levels = [kind.level(share) for share in grid]
    assert levels in (sorted(levels), sorted(levels, reverse=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gaussian=30", {"gaussian": 0.5}),
        ("blur=2x0.5,gaussian=6,clip,round", {"blur": 1 / 3, "gaussian": 0.1}),
        ("salt_and_pepper=15%", {"salt_and_pepper": 0.5}),
        ("speckle=0.15", {"speckle": 0.5}),
        ("poisson=20", {"poisson": 0.5}),
        ("jpeg=10", {"jpeg": 1.0}),
        ("down=2,up=2", {"resize": 0.5}),
        ("down=4", {"resize": 1.0}),
        ("gaussian=200", {"gaussian": 1.0}),
        ("clip,round", {}),
    ],
)
def test_operations_as_shares(text, expected):
    found = shares(Degrade.parse(text).operations, tuple(KINDS))
    torch.testing.assert_close(found, torch.tensor([expected.get(name, 0.0) for name in KINDS]))
