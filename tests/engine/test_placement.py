"""Where numbers are computed, and how they get there."""

import pytest
import torch

from conditioning.bundle import Conditioning
from ldm.engine.placement import send


class Sent(torch.Tensor):
    """Writes down how it is copied."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to:
            args[0].how.append((args[1:], kwargs))
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu", "mps"])
def test_only_copies_to_a_gpu_of_nvidia_are_not_waited_for(device: str) -> None:
    place = torch.device(device)
    alone, within = torch.ones(2).as_subclass(Sent), torch.ones(2, 3, 4).as_subclass(Sent)
    alone.how, within.how = [], []
    send(alone, place)
    send(Conditioning(tokens=within), place, torch.float16)
    assert alone.how == [((place, None), {"non_blocking": place.type == "cuda"})]
    assert within.how == [((), {"device": place, "dtype": torch.float16, "non_blocking": place.type == "cuda"})]


def test_numbers_arrive() -> None:
    given = Conditioning(tokens=torch.ones(2, 3, 4), sizes=torch.full((2, 6), 513.0))
    found = send(given, torch.device("cpu"), torch.bfloat16)
    assert found.tokens is not None and found.tokens.dtype == torch.bfloat16
    assert found.sizes is not None and torch.equal(found.sizes, torch.full((2, 6), 513.0))
    assert send(torch.ones(2), torch.device("cpu"), torch.float64).dtype == torch.float64
