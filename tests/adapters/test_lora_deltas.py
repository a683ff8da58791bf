"""What an adapter adds to a weight, against the formulas written out, against PEFT, and as a layer beside the layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ldm.adapters.lora.deltas import Delta, Hadamard, Kronecker, LowRank, accumulate, check_shape


def change(delta: Delta, *shape: int) -> torch.Tensor:
    return accumulate(torch.zeros(shape), delta)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_lora_beside_a_linear_layer_is_lora_in_its_weight() -> None:
    x, weight, down, up = random(5, 6), random(8, 6), random(3, 6), random(8, 3)
    merged = weight + change(LowRank(down, up, scale=0.7), 8, 6)
    torch.testing.assert_close(F.linear(x, merged), F.linear(x, weight) + 0.7 * F.linear(F.linear(x, down), up))


@pytest.mark.parametrize("size", [1, 3])
def test_locon_beside_a_convolution_is_locon_in_its_weight(size: int) -> None:
    x, weight, down, up = random(2, 6, 5, 5), random(8, 6, size, size), random(3, 6, size, size), random(8, 3, 1, 1)
    merged = weight + change(LowRank(down, up, scale=0.7), *weight.shape)
    beside = F.conv2d(x, weight, padding=size // 2) + 0.7 * F.conv2d(F.conv2d(x, down, padding=size // 2), up)
    torch.testing.assert_close(F.conv2d(x, merged, padding=size // 2), beside, rtol=1e-5, atol=1e-5)


def test_locon_with_a_middle_is_three_convolutions() -> None:
    x, down, mid, up = random(2, 6, 5, 5), random(3, 6, 1, 1), random(4, 3, 3, 3), random(8, 4, 1, 1)
    delta = change(LowRank(down, up, mid, scale=2.0), 8, 6, 3, 3)
    beside = 2 * F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=1), up)
    torch.testing.assert_close(F.conv2d(x, delta, padding=1), beside, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1, 1)])
@pytest.mark.parametrize("flat", [True, False])
def test_linear_factors_serve_a_1x1_convolution_and_the_other_way_round(shape: tuple[int, ...], flat: bool) -> None:
    down, up = random(3, 6), random(8, 3)
    delta = LowRank(down, up) if flat else LowRank(down[:, :, None, None], up[:, :, None, None])
    check_shape(delta, shape)
    torch.testing.assert_close(change(delta, *shape).reshape(8, 6), up @ down)


def test_loha_is_the_formula_of_lycoris() -> None:
    w1a, w1b, w2a, w2b = random(8, 2), random(2, 6), random(8, 2) + 1, random(2, 6) - 1
    found = change(Hadamard(w1a, w1b, w2a, w2b, scale=0.5), 8, 6)
    for o in range(8):
        for i in range(6):
            expected = 0.5 * (w1a[o] * w1b[:, i]).sum() * (w2a[o] * w2b[:, i]).sum()
            assert float(found[o, i]) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_loha_of_a_convolution_is_the_formula_of_lycoris() -> None:
    w1a, w1b, w2a, w2b = random(2, 8), random(2, 6), random(2, 8) + 1, random(2, 6) - 1
    t1, t2 = random(2, 2, 3, 3), random(2, 2, 3, 3) + 1
    found = change(Hadamard(w1a, w1b, w2a, w2b, t1, t2, scale=0.5), 8, 6, 3, 3)
    first = sum(t1[a, b] * w1a[a, :, None, None, None] * w1b[b, :, None, None] for a in range(2) for b in range(2))
    second = sum(t2[a, b] * w2a[a, :, None, None, None] * w2b[b, :, None, None] for a in range(2) for b in range(2))
    torch.testing.assert_close(found, 0.5 * first * second)
    flat = Hadamard(random(8, 2), random(2, 54), random(8, 2), random(2, 54))
    expected = (flat.w1_a @ flat.w1_b) * (flat.w2_a @ flat.w2_b)
    torch.testing.assert_close(change(flat, 8, 6, 3, 3), expected.reshape(8, 6, 3, 3))


@pytest.mark.parametrize("whole", ["w1", "w2", "both", "none"])
def test_lokr_is_the_formula_of_lycoris(whole: str) -> None:
    w1a, w1b, w2a, w2b = random(2, 3), random(3, 4), random(5, 3), random(3, 2)
    w1, w2 = w1a @ w1b, w2a @ w2b
    first = {"w1": w1} if whole in ("w1", "both") else {"w1_a": w1a, "w1_b": w1b}
    second = {"w2": w2} if whole in ("w2", "both") else {"w2_a": w2a, "w2_b": w2b}
    found = change(Kronecker(**first, **second, scale=0.5), 10, 8)
    for o in range(10):
        for i in range(8):
            expected = 0.5 * w1[o // 5, i // 2] * w2[o % 5, i % 2]
            assert float(found[o, i]) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["whole", "flat", "tucker"])
def test_lokr_of_a_convolution_is_the_formula_of_lycoris(kind: str) -> None:
    w1, t2 = random(2, 4), random(3, 3, 3, 3)
    if kind == "whole":
        w2 = random(5, 2, 3, 3)
        delta = Kronecker(w1=w1, w2=w2)
    elif kind == "flat":
        delta = Kronecker(w1=w1, w2_a=random(5, 3), w2_b=random(3, 18))
        w2 = (random(5, 3) @ random(3, 18)).reshape(5, 2, 3, 3)
    else:
        a, b = random(3, 5), random(3, 2)
        delta = Kronecker(w1=w1, w2_a=a, w2_b=b, t2=t2)
        w2 = sum(t2[r, s] * a[r, :, None, None, None] * b[s, :, None, None] for r in range(3) for s in range(3))
    found = change(delta, 10, 8, 3, 3)
    for o in range(10):
        for i in range(8):
            torch.testing.assert_close(found[o, i], w1[o // 5, i // 2] * w2[o % 5, i % 2])


@pytest.mark.parametrize("layer", [nn.Linear(6, 8), nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 1)])
@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_loha_and_lokr_are_those_of_peft(layer: nn.Module, tucker: bool, kind: str) -> None:
    from peft import LoHaConfig, LoKrConfig, inject_adapter_in_model

    options = {"r": 2, "alpha": 3, "target_modules": ["0"], "use_effective_conv2d": tucker, "init_weights": False}
    config = LoHaConfig(**options) if kind == "loha" else LoKrConfig(**options, decompose_both=True)
    torch.manual_seed(0)
    model = inject_adapter_in_model(config, nn.Sequential(layer))
    factors = {
        name.split(".")[1]: value.detach()
        for name, value in model.state_dict().items()
        if f"{kind}_" in name or "hada" in name
    }
    ours = {name.split("_", 1)[1]: value for name, value in factors.items()}
    delta = Hadamard(**ours, scale=1.5) if kind == "loha" else Kronecker(**ours, scale=1.5)
    expected = model[0].get_delta_weight("default").detach()
    check_shape(delta, tuple(expected.shape))
    torch.testing.assert_close(change(delta, *expected.shape), expected)


def test_half_precision_factors_are_multiplied_in_fp32() -> None:
    down, up = random(3, 6), random(8, 3)
    for dtype in (torch.float16, torch.bfloat16):
        found = change(LowRank(down.to(dtype), up.to(dtype)), 8, 6)
        assert found.dtype is torch.float32
        assert torch.equal(found, up.to(dtype).float() @ down.to(dtype).float())


def test_ranks_by_which_alphas_are_divided() -> None:
    assert LowRank(random(3, 6), random(8, 3)).rank == 3
    assert Hadamard(random(8, 2), random(2, 6), random(8, 2), random(2, 6)).rank == 2
    assert Kronecker(w1=random(2, 4), w2_a=random(5, 3), w2_b=random(3, 2)).rank == 3
    assert Kronecker(w1_a=random(2, 3), w1_b=random(3, 4), w2=random(5, 2)).rank == 3
    assert Kronecker(w1=random(2, 4), w2=random(5, 2)).rank is None


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (LowRank(random(3, 6), random(8, 2)), "factors do not fit each other"),
        (LowRank(random(3, 7), random(8, 3)), r"changes a weight of \(8, 7\), but this model's is \(8, 6\)"),
        (LowRank(random(3, 8), random(6, 3)), r"changes a weight of \(6, 8\)"),
        (Hadamard(random(8, 2), random(2, 6), random(8, 2), random(2, 5)), "factors do not fit each other"),
        (Kronecker(w1=random(2, 4), w2_a=random(4, 2)), "factors do not fit each other .a factor is missing"),
    ],
)
def test_factors_that_do_not_fit_are_named(delta: LowRank, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shape(delta, (8, 6))
