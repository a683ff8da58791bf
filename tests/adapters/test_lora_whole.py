"""DoRA and changes of whole weights, biases and norms: LyCORIS' formulas, and the laws of every adapter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import (
    DTYPES,
    STEM,
    kohya,
    low_ranks,
    mixed,
    same,
    snapshot,
    tiny_unet,
    unet_layers,
    whole_and_decomposed,
)
from safetensors.torch import save_file
from torch import Tensor

from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Decomposed, LowRank, accumulate, check_shape
from ldm.adapters.lora.view import with_weights
from ldm.io.lora.load import load_lora
from ldm.io.lora.read import read_lora

KINDS = torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3)])
@pytest.mark.parametrize("on_output", [True, False])
def test_dora_is_the_formula_of_lycoris(shape: tuple[int, ...], on_output: bool) -> None:
    """`weight_decompose`, with and without `wd_on_output`: `dora_scale` is the norm of each output or input."""
    weight, down, up = random(*shape), random(3, *shape[1:]), random(8, 3)
    length = 8 if on_output else 6
    magnitude = random(length).exp()
    sizes = (length, *[1] * (len(shape) - 1)) if on_output else (1, length, *[1] * (len(shape) - 2))
    delta = Decomposed(LowRank(down, up, scale=0.7), magnitude.reshape(sizes))
    check_shape(delta, shape)
    found = accumulate(weight.clone(), delta)
    moved = weight + 0.7 * (up @ down.flatten(1)).reshape(shape)
    for i in range(length):
        own, result = (moved[i], found[i]) if on_output else (moved[:, i], found[:, i])
        torch.testing.assert_close(result, own / own.norm() * magnitude[i])
    half = accumulate(weight.clone(), delta, 0.5)
    torch.testing.assert_close(half, (weight + found) / 2)  # LyCORIS' multiplier


def test_an_output_without_weights_stays_without() -> None:
    found = accumulate(torch.zeros(2, 3), Decomposed(LowRank(torch.zeros(1, 3), torch.zeros(2, 1)), torch.ones(2, 1)))
    assert torch.equal(found, torch.zeros(2, 3))


def test_whole_changes_of_a_file_are_added(tmp_path: Path) -> None:
    """LyCORIS' `diff` and `diff_b` of a layer, `w_norm` and `b_norm` of a norm, times the adapter's weight."""
    unet = tiny_unet()
    state = snapshot(unet)
    changes = {
        "conv_in.weight": ("lora_unet_conv_in.diff", random(8, 4, 3, 3)),
        "conv_in.bias": ("lora_unet_conv_in.diff_b", random(8)),
        "conv_norm_out.weight": ("lora_unet_conv_norm_out.w_norm", random(8) + 1),
        "conv_norm_out.bias": ("lora_unet_out_0.b_norm", random(8) - 1),  # CompVis' name
        "mid_block.resnets.0.norm1.weight": ("unet.mid_block.resnets.0.norm1.w_norm", random(16)),
    }
    save_file(dict(changes.values()), tmp_path / "x.safetensors")
    report = load_lora(LoraSet(unet), tmp_path / "x.safetensors", 0.5)
    assert (report.matched, report.ranks) == (5, ())
    for name, value in unet.state_dict().items():
        expected = state[name] + 0.5 * changes[name][1] if name in changes else state[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_every_floating_type_are_exact(kind: torch.dtype, tmp_path: Path) -> None:
    down, up = random(2, 16).to(kind), random(16, 2).to(kind)
    factors: dict[str, Tensor | None] = {f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}
    unet = tiny_unet()
    base = unet.mid_block.attentions[0].proj_in.weight.data.clone()
    load_lora(LoraSet(unet), kohya(tmp_path / "x.safetensors", factors | {f"{STEM}.alpha": None}))
    exact = base.double() + (up.double() @ down.double())[:, :, None, None]
    torch.testing.assert_close(unet.mid_block.attentions[0].proj_in.weight.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", ["a", "c"])
def test_taking_out_again_is_exact_with_several(dtype: torch.dtype, first: str) -> None:
    unet, other = tiny_unet(dtype), tiny_unet(dtype)
    state = snapshot(unet)
    adapters = {"a": (low_ranks(unet_layers(unet), 1), 0.8), "b": (whole_and_decomposed(), -1.3)}
    adapters |= {"c": (whole_and_decomposed(5), 0.6), "d": (mixed(), 1.0)}
    loras, alone = LoraSet(unet), LoraSet(other)
    for name in (first, *sorted(adapters.keys() - {first})):
        loras.add(adapters[name][0], name, adapters[name][1])
    for name in ("d", "c", "b", "a"):  # another order of loading, and other weights on the way
        alone.add(adapters[name][0], name, 2.0)
    alone.set_weights({name: weight for name, (_, weight) in adapters.items()})
    assert same(unet, snapshot(other)) and not same(unet, state)
    view = with_weights(other, alone.merged_at(dict.fromkeys("acd", 0.0)))
    loras.set_weights(dict.fromkeys("acd", 0.0))
    assert same(view, snapshot(unet)) and not same(unet, state)
    loras.set_weights({"b": 0.0})
    assert same(unet, state)
    loras.set_weights({"b": 2.5})
    loras.unload()
    assert same(unet, state)


def test_doras_add_up_by_what_each_does_to_the_base() -> None:
    unet, name = tiny_unet(), "unet.conv_in"
    first, second = whole_and_decomposed()[name], whole_and_decomposed(5)[name]
    base = unet.conv_in.weight.data.clone()
    expected = base + 0.5 * (accumulate(base.clone(), first) - base) - (accumulate(base.clone(), second) - base)
    loras = LoraSet(unet)
    loras.add({name: first}, "a", 0.5)
    loras.add({name: second}, "b", -1.0)
    torch.testing.assert_close(unet.conv_in.weight.data, expected, rtol=0, atol=2e-6)


def whole_lokr(path: Path, kernel: bool, metadata: dict[str, str], alpha: float) -> Path:
    w2 = torch.ones(4, 2, 3, 3) if kernel else torch.ones(4, 4)
    stem = "lora_unet_conv_in" if kernel else STEM
    w1 = torch.ones(2, 2) if kernel else torch.ones(4, 4)
    save_file({f"{stem}.lokr_w1": w1, f"{stem}.lokr_w2": w2, f"{stem}.alpha": torch.tensor(alpha)}, path, metadata)
    return path


LYCORIS = {"ss_network_module": "lycoris.kohya", "ss_network_dim": "8"}


@pytest.mark.parametrize(
    ("metadata", "alpha", "kernel", "scale", "note"),
    [
        (LYCORIS, 8.0, False, 1.0, ""),
        (LYCORIS, 4.0, False, 1.0, "at scale 1, as LyCORIS trains them, whatever their alpha 4"),
        (LYCORIS | {"ss_network_args": '{"rs_lora": "True"}'}, 16.0, False, 2.0, "2, alpha 16 / ss_network_dim"),
        ({"ss_network_dim": "8"}, 4.0, False, 0.5, "at scale 0.5, alpha 4 / ss_network_dim 8"),
        ({"ss_network_dim": "8", "ss_network_args": '{"conv_dim": "2"}'}, 4.0, True, 2.0, "alpha 4 / conv_dim 2"),
        ({"ss_network_dim": "8", "ss_network_args": '{"conv_dim": "2"}'}, 4.0, False, 0.5, "/ ss_network_dim 8"),
        ({"ss_network_dim": "Dynamic"}, 4.0, False, 1.0, "for want of ss_network_dim to divide their alpha 4 by"),
        ({"ss_network_args": "[broken"}, 4.0, False, 1.0, "for want of ss_network_dim"),
    ],
)  # fmt: skip
def test_header_decides_the_scale_of_whole_kronecker_factors(
    metadata: dict[str, str], alpha: float, kernel: bool, scale: float, note: str, tmp_path: Path
) -> None:
    path = whole_lokr(tmp_path / "x.safetensors", kernel, metadata, alpha)
    assert [delta.scale for delta in read_lora(path).deltas.values()] == [scale]
    line = str(load_lora(LoraSet(tiny_unet()), path))
    assert note in line and ("whole LoKr" in line) == bool(note)


@pytest.mark.parametrize("make", [whole_and_decomposed, mixed])
def test_a_prompt_may_weigh_every_kind(make: Callable[[], dict], tmp_path: Path) -> None:
    unet = tiny_unet()
    loras = LoraSet(unet)
    loras.add(make(), "a", 1.0)
    before = snapshot(unet)
    view = with_weights(unet, loras.merged_at({"a": 0.3}))
    changed = {name for name, value in view.state_dict().items() if not torch.equal(value, before[name])}
    names = {name.removeprefix("unet.") for name in make()}
    assert changed == {name if name.endswith(".bias") else f"{name}.weight" for name in names}
    assert same(unet, before)
