"""Noise: a picture's draws and its Brownian path depend on its own seed alone."""

from itertools import pairwise

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from ldm.noise import NoiseSource, _scramble, slerp

SHAPE = (4, 3, 2)


def test_image_i_of_a_batch_draws_what_its_own_seed_draws():
    batch = NoiseSource([7, 8, 9], SHAPE)
    alone = [NoiseSource([seed], SHAPE) for seed in (7, 8, 9)]
    for _ in range(3):
        assert torch.equal(batch(), torch.cat([source() for source in alone]))


def test_draws_go_on_and_repeat_with_the_seed():
    source, again = NoiseSource([5], SHAPE), NoiseSource([5], SHAPE)
    first, second = source(), source()
    assert not torch.equal(first, second)
    assert torch.equal(again(), first) and torch.equal(again(), second)


def test_seed_zero_is_a_seed():
    assert torch.equal(NoiseSource([0], SHAPE)(), NoiseSource([0], SHAPE)())
    assert not torch.equal(NoiseSource([0], SHAPE)(), NoiseSource([1], SHAPE)())


def test_draws_are_those_of_diffusers_with_a_list_of_generators():
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    wanted = randn_tensor((2, *SHAPE), generator=generators, dtype=torch.float32)
    assert torch.equal(NoiseSource([3, 4], SHAPE)(), wanted)


def test_generators_are_taken_as_they_stand():
    generator = torch.Generator().manual_seed(1)
    torch.randn(SHAPE, generator=generator)
    seeded = NoiseSource([1], SHAPE)
    seeded()
    assert torch.equal(NoiseSource.from_generators([generator], SHAPE)(), seeded())


def test_noise_is_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert NoiseSource([0], SHAPE)().dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("seeds", "words"), [([-1], "seed=-1"), ([2**64], str(2**64)), ([], "seeds is empty")])
def test_seeds_out_of_range_are_refused(seeds: list[int], words: str):
    with pytest.raises(ValueError, match=words):
        NoiseSource(seeds, SHAPE)


def test_a_path_depends_on_the_seed_and_the_ends_alone():
    stretches = [(0.0, 0.1), (0.1, 0.4), (0.25, 0.5), (0.4, 1.0), (0.0, 1.0), (1 / 3, 2 / 3)]
    source, again, drawing = (NoiseSource([7, 8], SHAPE) for _ in range(3))
    wanted = {stretch: source.between(*stretch) for stretch in stretches}
    for stretch in reversed(stretches):
        drawing()
        assert torch.equal(again.between(*stretch), wanted[stretch])
        assert torch.equal(drawing.between(*stretch), wanted[stretch])


def test_path_of_image_i_is_the_path_of_its_own_seed():
    batch = NoiseSource([7, 8, 9], SHAPE)
    alone = [NoiseSource([seed], SHAPE) for seed in (7, 8, 9)]
    for stretch in ((0.0, 0.2), (0.2, 0.7)):
        assert torch.equal(batch.between(*stretch), torch.cat([source.between(*stretch) for source in alone]))
    assert not torch.equal(*batch.between(0.2, 0.7)[:2])


@pytest.mark.parametrize(
    ("start", "middle", "end"), [(0.0, 0.3, 1.0), (0.1, 0.5, 0.75), (0.123, 0.124, 0.9), (0.7, 0.70001, 0.70003)]
)
def test_two_stretches_of_a_path_add_up_to_the_whole(start: float, middle: float, end: float):
    source = NoiseSource([3], (4, 16, 16))
    parts = (middle - start) ** 0.5 * source.between(start, middle) + (end - middle) ** 0.5 * source.between(
        middle, end
    )
    torch.testing.assert_close(parts / (end - start) ** 0.5, source.between(start, end), rtol=0, atol=3e-6)


def test_stretches_are_standard_normal_and_independent():
    source = NoiseSource([11], (2**16,))
    points = [0.0, 1e-5, 0.2, 0.5, 0.5 + 2e-5, 0.5 + 3e-5, 0.81, 1.0]
    noise = torch.cat([source.between(a, b) for a, b in pairwise(points)]).double()
    assert noise.mean(1).abs().max() < 0.02
    torch.testing.assert_close(torch.corrcoef(noise), torch.eye(7, dtype=torch.float64), rtol=0, atol=0.02)
    torch.testing.assert_close(noise.pow(2).mean(1), torch.ones(7, dtype=torch.float64), rtol=0, atol=0.03)
    torch.testing.assert_close(noise.pow(4).mean(1), torch.full((7,), 3.0, dtype=torch.float64), rtol=0, atol=0.2)


def test_overlapping_stretches_share_what_they_overlap():
    source = NoiseSource([12], (2**16,))
    both = torch.cat([source.between(0.1, 0.5), source.between(0.3, 0.9), source()]).double()
    shared = 0.2 / (0.4 * 0.6) ** 0.5
    wanted = torch.tensor([[1, shared, 0], [shared, 1, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(torch.corrcoef(both), wanted, rtol=0, atol=0.02)


def test_no_two_nodes_of_a_path_share_their_noise():
    assert len({_scramble(_scramble(node ^ 0x12345678) ^ 0x9ABCDEF) for node in range(2**16)}) == 2**16
    fine = NoiseSource([1], (64,))
    steps = torch.cat([fine.between(i / 500, (i + 1) / 500) for i in range(500)])
    assert torch.corrcoef(steps).fill_diagonal_(0).abs().max() < 0.7  # 64 values: chance reaches about 0.6


def test_generators_decide_the_path_as_they_stand_and_are_not_moved():
    generator = torch.Generator().manual_seed(1)
    source = NoiseSource.from_generators([generator], SHAPE)
    assert torch.equal(source.between(0.1, 0.6), NoiseSource([1], SHAPE).between(0.1, 0.6))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())
    torch.randn(1, generator=generator)
    moved, again = (NoiseSource.from_generators([generator], SHAPE).between(0.1, 0.6) for _ in range(2))
    assert torch.equal(moved, again) and not torch.equal(moved, source.between(0.1, 0.6))


def test_images_that_share_a_generator_walk_different_paths():
    generator = torch.Generator().manual_seed(1)
    first, second = NoiseSource.from_generators([generator, generator], SHAPE).between(0.0, 1.0)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_stretches_out_of_range_are_refused(start: float, end: float):
    with pytest.raises(ValueError, match=f"start={start} and end={end}"):
        NoiseSource([0], SHAPE).between(start, end)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a generator that is not on the CPU")
def test_generators_of_another_device_are_refused():
    with pytest.raises(ValueError, match="generator is on cuda"):
        NoiseSource.from_generators([torch.Generator("cuda")], SHAPE)


def a1111_slerp(share: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """`slerp` of A1111's modules/rng.py, where columns are not parallel, written from its formula."""
    unit = [noise / noise.norm(dim=1, keepdim=True) for noise in (low, high)]
    omega = (unit[0] * unit[1]).sum(1).acos()
    first, second = (((part * omega).sin() / omega.sin()).unsqueeze(1) for part in (1 - share, share))
    return first * low + second * high


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_slerp_is_that_of_a1111(share: float):
    low, high = NoiseSource([1, 2], (4, 16, 12))()
    torch.testing.assert_close(slerp(low, high, share), a1111_slerp(share, low, high), rtol=1e-5, atol=1e-5)


def test_slerp_ends_at_its_ends_to_the_bit():
    low, high = NoiseSource([1, 2], (4, 16, 12))()
    assert torch.equal(slerp(low, high, 0.0), low) and torch.equal(slerp(low, high, 1.0), high)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_slerp_keeps_norms_and_variance(share: float):
    low, high = NoiseSource([1, 2], (4, 64, 64))()
    unit = [noise / noise.norm(dim=1, keepdim=True) for noise in (low, high)]
    torch.testing.assert_close(slerp(*unit, share).norm(dim=1), torch.ones(4, 64), rtol=0, atol=1e-5)
    assert slerp(low, high, share).var().item() == pytest.approx(1, abs=4 * (2 / low.numel()) ** 0.5)


@pytest.mark.parametrize("shape", [(4, 1, 5), (4, 6, 5)])
def test_slerp_of_parallel_columns_is_a_straight_line(shape: tuple[int, int, int]):
    (low,) = NoiseSource([1], shape)()
    for high in (low * 1.5, -low, low):
        torch.testing.assert_close(slerp(low, high, 0.25), 0.75 * low + 0.25 * high)
