"""Merging adapters into a model and taking them out again."""

import threading
from collections.abc import Callable

import pytest
import torch
from adapters import DTYPES, low_ranks, mixed, same, snapshot, tiny_unet, unet_layers
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Delta, LowRank, accumulate
from ldm.adapters.lora.view import with_weights


def change(delta: Delta, weight: Tensor) -> Tensor:
    return delta.scale * delta.product("cpu").reshape(weight.shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unmerging_is_exact_and_gives_the_same_tensors_back(dtype: torch.dtype) -> None:
    unet = tiny_unet(dtype)
    unet.conv_in.weight.data.flatten()[0] = -0.0
    state = snapshot(unet)
    places = [parameter.data_ptr() for parameter in unet.parameters()]
    loras = LoraSet(unet)
    loras.add(low_ranks(unet_layers(unet), 1), "a", 0.8)
    loras.add(mixed(), "b", -1.3)
    assert not same(unet, state)
    loras.unload("a")
    loras.unload("b")
    assert same(unet, state)
    assert places == [parameter.data_ptr() for parameter in unet.parameters()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_weights_are_rounded_once(dtype: torch.dtype) -> None:
    unet = tiny_unet(dtype)
    state, deltas = snapshot(unet), mixed()
    LoraSet(unet).add(deltas, "a", 0.8)
    for name, delta in deltas.items():
        key = f"{name.removeprefix('unet.')}.weight"
        shape = tuple(state[key].shape)
        exact = state[key].double() + 0.8 * delta.scale * delta.product("cpu").double().reshape(shape)
        found = unet.state_dict()[key]
        assert found.dtype is dtype
        # Half a unit in the last place, and what the sum itself loses in fp32.
        room = torch.finfo(dtype).eps / 2 * exact.abs() + 4 * torch.finfo(torch.float32).eps * (exact.abs() + 1)
        assert bool(((found.double() - exact).abs() <= room).all()), name


def test_weight_zero_is_the_base_to_the_bit() -> None:
    unet = tiny_unet()
    state = snapshot(unet)
    loras = LoraSet(unet)
    loras.add(mixed(), "a", 0)
    assert same(unet, state)
    loras.set_weights({"a": 1})
    assert not same(unet, state)
    loras.set_weights({"a": 0})
    assert same(unet, state)


def test_changing_weights_adds_up_no_errors() -> None:
    unet, fresh = tiny_unet(torch.bfloat16), tiny_unet(torch.bfloat16)
    loras = LoraSet(unet)
    loras.add(mixed(), "a", 1.0)
    for weight in (0.3, -2.0, 0.0, 7.7, 0.123):
        loras.set_weights({"a": weight})
    LoraSet(fresh).add(mixed(), "a", 0.123)
    assert same(unet, snapshot(fresh))


def test_order_of_loading_changes_no_bit() -> None:
    one, other = tiny_unet(), tiny_unet()
    first, second, third = (low_ranks(unet_layers(one), seed) for seed in (1, 2, 3))
    loras = LoraSet(one)
    for name, deltas, weight in (("a", first, 0.3), ("b", second, 0.7), ("c", third, -0.9)):
        loras.add(deltas, name, weight)
    loras = LoraSet(other)
    for name, deltas, weight in (("c", third, -0.9), ("a", first, 1.0), ("b", second, 0.7)):
        loras.add(deltas, name, weight)
    loras.set_weights({"a": 0.3})
    assert same(one, snapshot(other))


def test_several_at_once_are_their_sum() -> None:
    unet = tiny_unet()
    state, layers = snapshot(unet), unet_layers(unet)
    first, second = low_ranks(layers, 1), low_ranks(layers, 2, rank=3, only=list(layers)[::2])
    loras = LoraSet(unet)
    loras.add(first, "a", 0.5)
    loras.add(second, "b", -0.25)
    for name, layer in layers.items():
        base = state[f"{name.removeprefix('unet.')}.weight"]
        expected = base + 0.5 * change(first[name], layer.weight)
        if name in second:
            expected = expected - 0.25 * change(second[name], layer.weight)
        torch.testing.assert_close(layer.weight.data, expected, rtol=0, atol=1e-6)


def test_only_layers_of_the_adapter_change() -> None:
    unet = tiny_unet()
    state = snapshot(unet)
    LoraSet(unet).add(mixed(), "a")
    touched = {f"{name.removeprefix('unet.')}.weight" for name in mixed()}
    assert {k for k, v in unet.state_dict().items() if not torch.equal(v, state[k])} == touched


def test_parts_of_the_model_have_their_own_weights() -> None:
    unet = tiny_unet()
    layers = unet_layers(unet)
    deltas = low_ranks(layers)
    state = snapshot(unet)
    parts = {"unet": 0.5, "unet.mid_block": 0.0, "unet.mid_block.attentions.0": -2.0}
    loras = LoraSet(unet)
    loras.add(deltas, "a", parts)
    assert loras.weights == {"a": parts}
    for name, layer in layers.items():
        attention, middle = name.startswith("unet.mid_block.attentions.0."), name.startswith("unet.mid_block.")
        weight = -2.0 if attention else 0.0 if middle else 0.5
        expected = state[f"{name.removeprefix('unet.')}.weight"] + weight * change(deltas[name], layer.weight)
        torch.testing.assert_close(layer.weight.data, expected, rtol=0, atol=1e-6)
    loras.set_weights({"a": {"unet.mid_block": 0}})  # what is not listed is 1
    layer = layers["unet.conv_in"]
    expected = state["conv_in.weight"] + change(deltas["unet.conv_in"], layer.weight)
    torch.testing.assert_close(layer.weight.data, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_view_has_the_weights_that_the_model_would_have(dtype: torch.dtype) -> None:
    unet, other = tiny_unet(dtype), tiny_unet(dtype)
    loras, others = LoraSet(unet), LoraSet(other)
    for each in (loras, others):
        each.add(mixed(), "a", 0.4)
        each.add(low_ranks(unet_layers(unet), 3), "b", 0.0)
    state, places = snapshot(unet), {name: p.data_ptr() for name, p in unet.named_parameters()}
    for weights in ({"a": {"unet": 2.0}}, {"a": 0.0}, {"b": -1.0}, {"a": 0.4, "b": 0.0}):
        others.set_weights({"a": 0.4, "b": 0.0} | weights)
        view = with_weights(unet, loras.merged_at(weights))
        assert same(view, snapshot(other)) and same(unet, state)
        shared = {name for name, p in view.named_parameters() if p.data_ptr() == places[name]}
        assert all(torch.equal(state[name], view.state_dict()[name]) for name in shared)
        assert shared >= {name for name in state if not name.endswith("weight")}
    assert with_weights(unet, loras.merged_at({"a": 0.4})) is unet
    assert loras.weights == {"a": 0.4, "b": 0.0}
    assert places == {name: p.data_ptr() for name, p in unet.named_parameters()}


def test_merging_while_drawing_leaves_ordinary_weights() -> None:
    unet = tiny_unet()
    x, time = torch.zeros(1, 4, 8, 8), torch.zeros(1)
    with torch.inference_mode():
        LoraSet(unet).add(mixed(), "a")
        unet(x, time, Conditioning(tokens=torch.zeros(1, 3, 16)))
    assert not any(parameter.is_inference() for parameter in unet.parameters())
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in unet.parameters())


def test_layout_of_the_weights_stays() -> None:
    unet = tiny_unet().to(memory_format=torch.channels_last)
    LoraSet(unet).add(mixed(), "a")
    assert unet.mid_block.resnets[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["add", "set_weights", "unload"])
def test_a_change_that_breaks_off_leaves_the_base(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm.adapters.lora import adapter_set

    unet = tiny_unet()
    state = snapshot(unet)
    loras = LoraSet(unet)
    loras.add(mixed(), "a")
    loras.add(low_ranks(unet_layers(unet)), "b")
    calls = []

    def out_of_memory(*arguments: object) -> Tensor:
        calls.append(arguments)
        if len(calls) > 5:
            raise MemoryError
        return accumulate(*arguments)

    steps: dict[str, Callable[[], None]] = {
        "add": lambda: loras.add(low_ranks(unet_layers(unet), 5), "c"),
        "set_weights": lambda: loras.set_weights({"b": 2.0}),
        "unload": lambda: loras.unload("a"),
    }
    monkeypatch.setattr(adapter_set, "accumulate", out_of_memory)
    with pytest.raises(MemoryError):
        steps[kind]()
    assert same(unet, state) and set(loras.weights.values()) == {0.0}
    monkeypatch.undo()
    loras.set_weights({"b": 1.0})
    assert not same(unet, state)
    loras.unload()
    assert same(unet, state) and loras.weights == {}


def test_threads_take_turns() -> None:
    unet = tiny_unet()
    state = snapshot(unet)
    loras = LoraSet(unet)
    deltas = [low_ranks(unet_layers(unet), seed) for seed in range(4)]

    def load_and_unload(i: int) -> None:
        for weight in (0.5, 1.0):
            loras.add(deltas[i], str(i), weight)
            loras.unload(str(i))

    threads = [threading.Thread(target=load_and_unload, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(unet, state) and loras.weights == {}


def test_usage_errors_name_what_is_wrong() -> None:
    unet = tiny_unet()
    state = snapshot(unet)
    loras = LoraSet(unet)
    loras.add(mixed(), "ink")
    with pytest.raises(ValueError, match="a LoRA named 'ink' is loaded already"):
        loras.add(mixed(), "ink")
    with pytest.raises(ValueError, match="unknown LoRA 'imk'; did you mean 'ink'"):
        loras.set_weights({"imk": 1})
    with pytest.raises(ValueError, match="unknown LoRA 'imk'"):
        loras.unload("imk")
    with pytest.raises(ValueError, match="unknown LoRA 'imk'"):
        loras.deltas("imk")
    for weight in (float("nan"), float("inf"), "0.8", None, True):
        with pytest.raises(ValueError, match="LoRA 'ink': weight="):
            loras.set_weights({"ink": weight})
    with pytest.raises(
        ValueError, match=r"LoRA 'ink': the model has no part 'unet.mid_blok'; did you mean .*mid_block"
    ):
        loras.set_weights({"ink": {"unet.mid_blok": 1}})
    with pytest.raises(ValueError, match=r"unknown layer 'unet.conv_inn'"):
        loras.add({"unet.conv_inn": LowRank(torch.zeros(1, 4), torch.zeros(8, 1))}, "x")
    with pytest.raises(ValueError, match=r"unet.conv_in: it changes a weight of \(8, 4\)"):
        loras.add({"unet.conv_in": LowRank(torch.zeros(1, 4), torch.zeros(8, 1))}, "x")
    assert loras.weights == {"ink": 1.0} and loras.deltas("ink").keys() == mixed().keys()
    loras.unload()
    assert same(unet, state)


def test_text_encoder_parts_are_known_to_models_without_one() -> None:
    loras = LoraSet(tiny_unet())
    loras.add(mixed(), "a", {"unet": 0.5, "text_encoder": 0.3, "text_encoder_2": 0.3})
    assert loras.weights["a"] == {"unet": 0.5, "text_encoder": 0.3, "text_encoder_2": 0.3}


def test_base_follows_the_model_to_another_type() -> None:
    unet, never = tiny_unet(), tiny_unet()
    loras = LoraSet(unet)
    loras.add(mixed(), "a", 0.7)
    unet.to(torch.bfloat16)
    never.to(torch.bfloat16)
    loras.unload()
    assert same(unet, snapshot(never))
