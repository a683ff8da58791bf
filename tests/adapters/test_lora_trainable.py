"""LoRA in training: what is shared, what is trained, and that merging what was learned gives the same network."""

import copy

import pytest
import torch
from adapters import tiny_unet
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.trainable import changes_of, with_low_rank_changes
from ldm.networks.unet import UNet

PARTS = ("down_blocks.", "mid_block.", "up_blocks.")


def _answer(unet: nn.Module) -> Tensor:
    """Of an input so large and laid out so that on a CPU the upsampling folds its kernel."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 4, 24, 24, generator=generator).contiguous(memory_format=torch.channels_last)
    return unet(x, torch.tensor([3.0, 700.0]), Conditioning(tokens=torch.randn(2, 5, 16, generator=generator)))


def _moved(unet: UNet, rank: int = 3) -> UNet:
    """A network with changes that are no longer zero."""
    torch.manual_seed(0)
    changed = with_low_rank_changes(unet, rank, PARTS)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1)
    return changed


def test_it_shares_every_weight_and_answers_the_same_at_first() -> None:
    unet = tiny_unet()
    before, expected = copy.deepcopy(unet.state_dict()), _answer(unet)
    changed = with_low_rank_changes(unet, 3, PARTS)
    torch.testing.assert_close(_answer(changed), expected, rtol=1e-5, atol=1e-5)
    own = {id(parameter) for parameter in unet.parameters()}
    new = {name: p for name, p in changed.named_parameters() if id(p) not in own}
    assert own < {id(parameter) for parameter in changed.parameters()}
    assert {name for name, p in changed.named_parameters() if p.requires_grad} == set(new)
    assert new and all(name.endswith((".down", ".up")) and name.startswith(PARTS) for name in new)
    _answer(_moved(unet)).sum().backward()
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in before.items())
    torch.testing.assert_close(_answer(unet), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_merging_what_was_learned_gives_the_same_network(rank: int) -> None:
    unet = tiny_unet()
    changed = _moved(unet, rank)
    expected, before = _answer(changed), _answer(unet)
    deltas = changes_of(changed, "unet")
    assert all(delta.rank == min(rank, *_sides(unet, name)) for name, delta in deltas.items())
    LoraSet(unet).add(deltas, "learned")
    torch.testing.assert_close(_answer(unet), expected, rtol=1e-3, atol=1e-3)
    assert (expected - before).abs().max() > 0.01


def _sides(unet: UNet, address: str) -> tuple[int, int]:
    weight = unet.get_submodule(address.removeprefix("unet.")).weight
    assert isinstance(weight, Tensor)
    return weight.shape[0], weight[0].numel()


def test_every_factor_gets_a_gradient_whatever_its_weight_is_used_for() -> None:
    changed = _moved(tiny_unet())
    _answer(changed).square().sum().backward()
    factors = [p for p in changed.parameters() if p.requires_grad]
    assert all(factor.grad is not None and factor.grad.any() for factor in factors)
    assert len(factors) == 2 * len(changes_of(changed, "unet"))
