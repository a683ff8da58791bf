"""The options of a network call: of several passes together, and of some rows."""

import pytest
import torch

from ldm.networks.feature_cache import CacheSettings, FeatureCache
from ldm.networks.hooks import HookPerPart
from ldm.networks.options import EVERY, PLAIN, NetworkOptions, Residuals


def hook(layer, q, k, v, mask=None):
    return v


def residuals(value: float) -> Residuals:
    return Residuals((torch.full((2, 1, 4, 4), value),), torch.full((2, 1, 2, 2), value))


def test_passes_without_an_option_are_as_they_would_be_alone() -> None:
    joint = NetworkOptions.cat([PLAIN, NetworkOptions(residuals(1.0), hook), NetworkOptions(residuals(2.0))])
    assert joint.hook == HookPerPart((None, hook, None)) and joint.residuals is not None
    for part in (*joint.residuals.down, joint.residuals.mid):
        assert part.shape[0] == 6 and part[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert NetworkOptions.cat([PLAIN, PLAIN]) == PLAIN and PLAIN.given == ()
    assert joint.given == ("residuals", "hook") and set(joint.given) < EVERY


def test_rows_of_the_joint_batch_are_those_of_the_pass() -> None:
    joint = NetworkOptions.cat([NetworkOptions(residuals(each), hook) for each in (1.0, 2.0)])
    cut = joint[2:4].residuals
    assert cut is not None and torch.equal(cut.mid, residuals(2.0).mid) and joint[2:4].hook is joint.hook


def test_what_is_of_a_whole_batch_is_refused_of_a_part() -> None:
    reuse = FeatureCache(CacheSettings(deepcache=2)).call(["a"], 1.0)
    with pytest.raises(ValueError, match=r"reuse is of a whole batch.*give it to the joint call"):
        NetworkOptions.cat([PLAIN, NetworkOptions(reuse=reuse)])
