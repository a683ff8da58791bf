"""Our CLIP text tower against transformers', in every way it is read."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.activations import ACT2FN

from conditioning.clip.transformer import ACTIVATIONS, ClipTextConfig, ClipTextModel

# What tells the three published towers apart, at a tiny size: activation, head width, projection, EOS.
SHAPES: dict[str, dict[str, Any]] = {
    "OpenAI L": {"hidden_act": "quick_gelu", "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 96},
    "OpenCLIP H": {"hidden_act": "gelu", "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 128},
    "OpenCLIP bigG": {
        "hidden_act": "gelu",
        "hidden_size": 40,
        "num_attention_heads": 5,
        "intermediate_size": 80,
        "projection_dim": 28,
        "projected": True,
    },
}
EOS = 98
CLOSE = {"rtol": 0, "atol": 1e-6}


def pair(projected: bool = False, dtype: torch.dtype = torch.float32, **fields: Any) -> tuple[ClipTextModel, nn.Module]:
    """Our tower, and transformers' with the same random weights."""
    own = {"vocab_size": 99, "num_hidden_layers": 3, "max_position_embeddings": 16, "bos_token_id": 97} | fields
    own = {"eos_token_id": EOS, "pad_token_id": EOS} | own
    torch.manual_seed(0)
    theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**own)).eval().to(dtype)
    ours = ClipTextModel(ClipTextConfig.from_fields(own), projected).eval().to(dtype)
    ours.load_state_dict({name.removeprefix("text_model."): x for name, x in theirs.state_dict().items()})
    return ours, theirs


def rows() -> torch.Tensor:
    """(3, 16): EOS in the middle and as padding, EOS once and then zeros, EOS last."""
    ids = torch.randint(1, 96, (3, 16), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[0, 5:], ids[1, 7], ids[1, 8:], ids[2, 15] = 97, EOS, EOS, 0, EOS
    return ids


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 8, 16])
def test_every_state_is_that_of_transformers(shape: str, length: int) -> None:
    ours, theirs = pair(**SHAPES[shape])
    ids = rows()[:, :length]
    mine, expected = ours(ids, output_hidden_states=True), theirs(ids, output_hidden_states=True)
    torch.testing.assert_close(mine.last_hidden_state, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(mine.hidden_states, expected.hidden_states, **CLOSE)
    if mine.text_embeds is None:
        torch.testing.assert_close(mine.pooler_output, expected.pooler_output, **CLOSE)
    else:
        torch.testing.assert_close(mine.text_embeds, expected.text_embeds, **CLOSE)
    assert ours(ids).hidden_states is None


@torch.no_grad()
def test_configs_of_old_find_eos_at_the_highest_id() -> None:
    ours, theirs = pair(eos_token_id=2)
    ids = rows()
    ids[1, 3] = 2
    torch.testing.assert_close(ours(ids).pooler_output, theirs(ids).pooler_output, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name: str) -> None:
    x = torch.linspace(-6, 6, 97)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_that_of_transformers(dtype: torch.dtype) -> None:
    ours, theirs = pair(**SHAPES["OpenAI L"], dtype=dtype)
    whole = copy.deepcopy(ours).float()(rows()).last_hidden_state
    error, usual = (abs(each(rows()).last_hidden_state - whole).mean() for each in (ours, theirs))
    assert ours.dtype == dtype and error < 1.5 * usual


@torch.no_grad()
def test_given_embeddings_take_the_place_of_tokens() -> None:
    ours, theirs = pair()
    ids, vectors = rows(), torch.randn(3, 16, 512, generator=torch.Generator().manual_seed(2)) * 0.02
    theirs.embeddings.token_embedding.register_forward_hook(lambda *_: vectors)
    mine, expected = ours(ids, inputs_embeds=vectors), theirs(ids)
    torch.testing.assert_close(mine.last_hidden_state, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(mine.pooler_output, expected.pooler_output, **CLOSE)


def test_gradients_are_those_of_transformers() -> None:
    ours, theirs = pair(**SHAPES["OpenCLIP H"])
    for model in (ours.train(), theirs.train()):
        model(rows()).last_hidden_state.square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_layers_have_the_names_and_the_order_of_transformers() -> None:
    ours, theirs = pair(**SHAPES["OpenCLIP bigG"])
    assert list(ours.state_dict()) == [name.removeprefix("text_model.") for name in theirs.state_dict()]


@pytest.mark.parametrize("projected", [False, True])
def test_transformers_reads_the_config_that_is_written(tmp_path: Path, projected: bool) -> None:
    config = ClipTextConfig(hidden_size=48, num_attention_heads=6, eos_token_id=EOS, layer_norm_eps=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(config.to_fields(projected)))
    theirs = CLIPTextConfig.from_pretrained(tmp_path)
    assert ClipTextConfig.from_fields(theirs.to_dict()) == config
    name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    assert theirs.architectures == [name] and theirs.dtype == torch.float32


def test_defaults_are_those_of_transformers() -> None:
    assert ClipTextConfig.from_fields({}) == ClipTextConfig.from_fields(CLIPTextConfig().to_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "swoosh"}, "hidden_act='swoosh' is not supported; only quick_gelu, gelu, "),
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size=30 is no multiple of num_attention_heads=4"),
    ],
)
def test_towers_that_cannot_be_built_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipTextConfig(**fields)


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are too many for a text tower of 16 positions"):
        pair()[0](torch.zeros(1, 17, dtype=torch.long))


def test_a_tower_can_be_pickled() -> None:
    ours, _ = pair()
    again = pickle.loads(pickle.dumps(ours))
    assert torch.equal(again(rows()).last_hidden_state, ours(rows()).last_hidden_state)
