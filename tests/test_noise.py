"""Noise: a picture's draws depend on its own seed alone."""

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from ldm.noise import NoiseSource

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
