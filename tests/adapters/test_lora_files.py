"""Adapter files: three styles of names, alphas, what is refused, and that nothing in a file runs or half loads."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import PROJ, STEM, TINY, kohya, low_ranks, mixed, tiny_text, tiny_unet, unet_layers, whole_and_decomposed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Delta, Kronecker, LowRank, Sum
from ldm.adapters.lora.layers import adaptable_layers
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.load import load_lora
from ldm.io.lora.names import known_names
from ldm.io.lora.read import read_lora
from ldm.io.lora.write import save_lora
from ldm.networks.unet import UNetConfig

SDXL = UNetConfig(  # its plan of blocks and vector conditioning, at 8 channels
    widths=(8, 16, 16),
    blocks_per_level=2,
    transformer_layers=(0, 1, 2),
    mid_transformer_layers=2,
    num_heads=(2, 2, 2),
    context_dim=16,
    linear_projection=True,
    norm_groups=4,
    pooled_dim=8,
    size_embedding_dim=4,
)


def same_deltas(found: dict[str, Delta], expected: dict[str, Delta]) -> bool:
    def content(delta: Delta) -> dict[str, object]:
        values = {k: content(v) if isinstance(v, Sum) else v for k, v in vars(delta).items()}
        return {k: (v.dtype, v.tolist()) if isinstance(v, Tensor) else v for k, v in values.items()}

    return found.keys() == expected.keys() and all(
        type(found[name]) is type(delta) and content(found[name]) == content(delta) for name, delta in expected.items()
    )


@pytest.mark.parametrize("style", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_files_read_back_exactly(style: str, dtype: torch.dtype, tmp_path: Path) -> None:
    unet, text, text_2 = tiny_unet(), tiny_text(), tiny_text(projection=True)
    layers = adaptable_layers({"unet": unet, "text_encoder": text, "text_encoder_2": text_2})
    deltas = low_ranks(layers, rank=4, scale=0.75)
    odd = list(layers)[::3]
    deltas |= low_ranks(layers, 1, rank=2, scale=2.5, only=odd)
    save_lora(tmp_path / "x.safetensors", deltas, style, dtype=dtype)
    loras = LoraSet(unet, text, text_2)
    report = load_lora(loras, tmp_path / "x.safetensors")
    assert (report.matched, report.total, report.unmatched) == (len(layers), len(layers), ())
    assert report.style == style and report.ranks == (2, 4) and sum(report.towers.values()) == len(layers)
    expected = {
        name: LowRank(delta.down.to(dtype), delta.up.to(dtype), scale=delta.scale) for name, delta in deltas.items()
    }
    assert same_deltas(loras.deltas("x"), expected)


@pytest.mark.parametrize("make", [mixed, whole_and_decomposed])
def test_every_kind_of_delta_is_written_in_kohyas_names(make: Callable[[], dict[str, Delta]], tmp_path: Path) -> None:
    save_lora(tmp_path / "x.safetensors", make())
    loras = LoraSet(tiny_unet())
    assert load_lora(loras, tmp_path / "x.safetensors").total == len(make())
    assert same_deltas(loras.deltas("x"), make())


@pytest.mark.parametrize("style", ["diffusers", "peft"])
def test_deltas_without_words_in_a_style_are_refused(style: str, tmp_path: Path) -> None:
    for name, delta in (mixed() | whole_and_decomposed()).items():
        if not isinstance(delta, LowRank) or delta.mid is not None:
            with pytest.raises(ValueError, match=f"for which style='{style}' has no words; use style='kohya'"):
                save_lora(tmp_path / "x", {name: delta}, style)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="whole Kronecker factors have no alpha"):
        save_lora(tmp_path / "x", {PROJ: Kronecker(w1=torch.ones(4, 4), w2=torch.ones(4, 4), scale=2.0)})
    with pytest.raises(ValueError, match="unknown style 'koyha'; did you mean 'kohya'"):
        save_lora(tmp_path / "x", mixed(), "koyha")
    with pytest.raises(ValueError, match="unknown network 'vae'"):
        save_lora(tmp_path / "x", {"vae.conv_in": LowRank(torch.ones(1, 1), torch.ones(1, 1))})
    with pytest.raises(ValueError, match="there is no delta"):
        save_lora(tmp_path / "x", {})


@pytest.mark.parametrize("config", [TINY, SDXL])
def test_every_layer_has_one_name_in_every_style(config: UNetConfig) -> None:
    two = config is SDXL
    towers = {"unet": tiny_unet(config=config), "text_encoder": tiny_text()}
    towers |= {"text_encoder_2": tiny_text(projection=True)} if two else {}
    layers = adaptable_layers(towers)
    known = known_names(layers, config)
    assert set(known.values()) == set(layers)
    for address in layers:
        tower, _, name = address.partition(".")
        flat = name.replace(".", "_")
        prefixes = {"unet": ["lora_unet_"], "text_encoder": ["lora_te1_", "lora_te_"], "text_encoder_2": ["lora_te2_"]}
        expected = [address, *(prefix + flat for prefix in prefixes[tower])]
        if tower == "unet" or not two:
            expected.append(name)
        assert [known[one] for one in expected] == [address] * len(expected)
    # No two layers share a name: as many names as there are layers times ways to write them.
    for prefix in ("lora_unet_", "lora_te1_", "lora_te2_"):
        flat = [name for name in known if name.startswith(prefix)]
        tower = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}[prefix]
        count = sum(layer.startswith(f"{tower}.") for layer in layers)
        # conv_in and the like are called the same in no two layouts; every U-Net layer has CompVis' name as well.
        assert len(flat) == count * (2 if prefix == "lora_unet_" else 1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [  # from files of SDXL: 9 input blocks, 3 middle blocks, 9 output blocks
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        (
            "input_blocks_8_1_transformer_blocks_1_ff_net_0_proj",
            "down_blocks.2.attentions.1.transformer_blocks.1.ff.net.0.proj",
        ),
        ("middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
        ("middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("output_blocks_2_1_proj_out", "up_blocks.0.attentions.2.proj_out"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_0_out_layers_3", "up_blocks.1.resnets.2.conv2"),
        ("time_embed_2", "time_embedding.linear_2"),
        ("label_emb_0_0", "add_embedding.linear_1"),
        ("out_2", "conv_out"),
    ],
)
def test_names_of_sdxl_files_are_known(theirs: str, ours: str) -> None:
    layers = unet_layers(tiny_unet(config=SDXL))
    assert known_names(layers, SDXL)[f"lora_unet_{theirs}"] == f"unet.{ours}"


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [(None, 1.0), (torch.tensor(1.0), 0.5), (torch.tensor([3]), 1.5), (torch.tensor(4.0).half(), 2.0)],
)
def test_alpha_is_divided_by_the_rank_and_is_the_rank_where_missing(
    alpha: Tensor | None, scale: float, tmp_path: Path
) -> None:
    file = read_lora(kohya(tmp_path / "x.safetensors", {f"{STEM}.alpha": alpha}))
    assert file.style == "kohya" and {name: delta.scale for name, delta in file.deltas.items()} == {STEM: scale}


def test_header_of_a_kohya_file_tells_rank_and_alpha(tmp_path: Path) -> None:
    deltas = low_ranks(unet_layers(tiny_unet()), rank=4, scale=0.5)
    save_lora(tmp_path / "x.safetensors", deltas, metadata={"ss_tag": "ink"})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        header = file.metadata()
    assert header["ss_network_dim"] == "4" and header["ss_network_alpha"] == "2" and header["ss_tag"] == "ink"
    assert header["ss_network_module"] == "networks.lora"
    save_lora(tmp_path / "y.safetensors", mixed())
    assert read_lora(tmp_path / "y.safetensors").metadata["ss_network_dim"] == "2"
    assert read_lora(tmp_path / "y.safetensors").metadata["ss_network_module"] == "lycoris.kohya"
    assert read_lora(tmp_path / "y.safetensors").metadata["ss_network_alpha"] == "Dynamic"


def test_tensors_only_pickle_opens(tmp_path: Path) -> None:
    tensors = load_file(kohya(tmp_path / "x.safetensors"))
    torch.save(tensors, tmp_path / "flat.pt")
    torch.save({"state_dict": {**tensors, f"{STEM}.alpha": 1.0}, "epoch": 3}, tmp_path / "nested.ckpt")
    expected = read_lora(tmp_path / "x.safetensors").deltas
    assert same_deltas(read_lora(tmp_path / "flat.pt").deltas, expected)
    assert same_deltas(read_lora(tmp_path / "nested.ckpt").deltas, expected)


def test_unmatched_layers_are_left_out_if_allowed(tmp_path: Path) -> None:
    text = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")
    }
    path = kohya(tmp_path / "x.safetensors", {**text, "bundle_emb.x": torch.ones(3)})
    loras = LoraSet(tiny_unet())
    with pytest.raises(ModelFileError, match=r"mlp_fc1, bundle_emb.x have no place in this model \(1 of 3 matched\)"):
        load_lora(loras, path)
    report = load_lora(loras, path, weight=0.5, name="ink", allow_unmatched=True)
    assert (report.matched, report.total, report.name) == (1, 3, "ink") and loras.weights == {"ink": 0.5}
    assert report.unmatched == ("lora_te_text_model_encoder_layers_0_mlp_fc1", "bundle_emb.x")
    assert str(report) == "ink: 1 of 3 layers matched (unet 1), kohya names"
    (tmp_path / "y.safetensors").write_bytes(path.read_bytes())
    nothing = {f"{STEM}.{part}": None for part in ("lora_up.weight", "lora_down.weight", "alpha")}
    with pytest.raises(ModelFileError, match=r"\(0 of 2 matched\); the LoRA is for another kind of model$"):
        load_lora(
            loras,
            kohya(tmp_path / "z.safetensors", {**nothing, **text, "bundle_emb.x": torch.ones(3)}),
            allow_unmatched=True,
        )


def test_names_without_a_network_need_one_text_encoder(tmp_path: Path) -> None:
    deltas = low_ranks(adaptable_layers({"text_encoder": tiny_text()}))
    bare = {}
    for name, delta in deltas.items():
        key = name.removeprefix("text_encoder.")
        bare |= {f"base_model.model.{key}.lora_A.weight": delta.down, f"base_model.model.{key}.lora_B.weight": delta.up}
    save_file(bare, tmp_path / "x.safetensors")
    assert load_lora(LoraSet(tiny_unet(), tiny_text()), tmp_path / "x.safetensors").towers == {"text_encoder": 12}
    with pytest.raises(ModelFileError, match="0 of 12 matched"):
        load_lora(LoraSet(tiny_unet(config=SDXL), tiny_text(), tiny_text(True)), tmp_path / "x.safetensors")
    save_lora(tmp_path / "text_encoder_2", deltas, "peft")  # the folder's name tells which is meant
    (tmp_path / "text_encoder_2" / "text_encoder").rename(tmp_path / "text_encoder_2" / "text_encoder_2")
    loras = LoraSet(tiny_unet(config=SDXL), tiny_text(), tiny_text(True))
    for name, path in (
        ("folder", tmp_path / "text_encoder_2"),
        ("file", tmp_path / "text_encoder_2" / "text_encoder_2"),
    ):
        assert load_lora(loras, path, name=name).towers == {"text_encoder_2": 12}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "BOFT"}, "peft_type='BOFT' is not supported; only LORA, LOHA, LOKR are"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save="),
        ({"r": 0}, "r=0 is no rank"),
        ({"r": "4"}, "r='4' is no number"),
        ({"lora_alpha": 1e400}, "lora_alpha=inf is no number"),
        ({"rank_pattern": {"(a+)+$": 2}}, r"rank_pattern has the pattern '\(a\+\)\+\$'"),
        ({"alpha_pattern": [1]}, r"alpha_pattern=\[1\] is not supported"),
    ],
)
def test_settings_of_peft_are_checked(change: dict, message: str, tmp_path: Path) -> None:
    save_lora(tmp_path / "x", low_ranks(unet_layers(tiny_unet())), "peft")
    config = tmp_path / "x" / "unet" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ModelFileError, match=f"adapter_config.json: {message}"):
        read_lora(tmp_path / "x")


@pytest.mark.parametrize("header", ["{", "[1]", '{"unet.r": null}', '{"unet.lora_bias": true}'])
def test_settings_in_a_header_are_checked(header: str, tmp_path: Path) -> None:
    tensors = {f"{PROJ}.lora_A.weight": torch.ones(2, 16), f"{PROJ}.lora_B.weight": torch.ones(16, 2)}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": header})
    with pytest.raises(ModelFileError, match=r"x.safetensors: lora_adapter_metadata"):
        read_lora(tmp_path / "x.safetensors")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"x.safetensors is missing; check the name"):
        read_lora(tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=r"is a folder without adapter_config.json; name the LoRA file itself"):
        read_lora(tmp_path)
