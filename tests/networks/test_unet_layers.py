"""Resampling and the embedding of numbers."""

import pytest
import torch
from torch.nn import functional as F

from ldm.networks.embeddings import sinusoid
from ldm.networks.unet.resample import Upsample


@pytest.mark.parametrize(("batch", "size"), [(1, (8, 8)), (64, (8, 8)), (64, (7, 8))], ids=str)
def test_upsampling_reaches_the_size_of_the_skip(batch, size):
    torch.manual_seed(0)
    up, x = Upsample(4), torch.randn(batch, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = up.conv(F.interpolate(x, size=size, mode="nearest"))
    torch.testing.assert_close(up(x, size), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [8, 9, 320])
def test_sinusoid_is_diffusers(dim):
    from diffusers.models.embeddings import get_timestep_embedding

    time = torch.tensor([0.0, 0.5, 3.0, 999.0])
    expected = get_timestep_embedding(time, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoid(time, dim), expected, atol=1e-6, rtol=0)
