"""Adapters do here what they do in diffusers and PEFT, whoever wrote the file."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from adapters import low_ranks
from safetensors.torch import save_file
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Delta
from ldm.adapters.lora.layers import adaptable_layers
from ldm.families.parts import ModelParts
from ldm.io.folder.load import load_folder
from ldm.io.folder.unet import unet_config
from ldm.io.lora.load import load_lora
from ldm.io.lora.write import save_lora
from ldm.networks.unet import UNet, UNetConfig


@pytest.fixture
def pipe(tiny_folder: Path):
    return diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)


@pytest.fixture
def parts(tiny_folder: Path) -> ModelParts:
    return load_folder(tiny_folder)


def loras_of(parts: ModelParts) -> LoraSet:
    assert parts.text is not None
    return LoraSet(parts.unet, parts.text.model)


def every_layer(parts: ModelParts) -> dict[str, Delta]:
    assert parts.text is not None
    return low_ranks(adaptable_layers({"unet": parts.unet, "text_encoder": parts.text.model}), rank=4, scale=0.5)


def draw(call: Callable[..., Tensor], config: UNetConfig) -> Tensor:
    """One evaluation on fixed input. call: (x, time, tokens) -> (B, C, h, w)."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(2, config.in_channels, 8, 8, generator=g)
    with torch.no_grad():
        return call(x, torch.tensor([3.0, 700.0]), torch.randn(2, 5, 16, generator=g))


def ours(unet: UNet) -> Tensor:
    return draw(lambda x, time, tokens: unet(x, time, Conditioning(tokens=tokens)), unet.config)


def theirs(unet: nn.Module, config: UNetConfig) -> Tensor:
    return draw(lambda x, time, tokens: unet(x, time, encoder_hidden_states=tokens).sample, config)


def read_text(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(12).reshape(1, 12)).last_hidden_state


def close(found: Tensor, expected: Tensor, base: Tensor) -> bool:
    """Equal to 1e-5, and the adapter shows."""
    assert float((expected - base).abs().max()) > 1e-2
    return float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def agree(parts: ModelParts, pipe, load: Callable[[], object]) -> bool:
    """Whether the networks of both sides give the same after `load` changed them, text encoder included."""
    assert parts.text is not None
    base, base_text = ours(parts.unet), read_text(parts.text.model)
    load()
    text = close(read_text(parts.text.model), read_text(pipe.text_encoder), base_text)
    return close(ours(parts.unet), theirs(pipe.unet, parts.unet.config), base) and text


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_files_do_the_same_in_diffusers(
    style: str, dtype: torch.dtype, parts: ModelParts, pipe, tmp_path: Path
) -> None:
    save_lora(tmp_path / "x.safetensors", every_layer(parts), style, dtype=dtype)

    def load() -> None:
        pipe.load_lora_weights(tmp_path / "x.safetensors")
        assert load_lora(loras_of(parts), tmp_path / "x.safetensors").matched == 95

    assert agree(parts, pipe, load)


def test_our_folders_do_the_same_in_peft(parts: ModelParts, pipe, tmp_path: Path) -> None:
    deltas = every_layer(parts)
    deltas |= low_ranks(adaptable_layers({"unet": parts.unet}), 1, rank=2, scale=3.0, only=list(deltas)[:20:2])
    save_lora(tmp_path / "x", deltas, "peft")

    def load() -> None:
        for tower in ("unet", "text_encoder"):
            peft.PeftModel.from_pretrained(getattr(pipe, tower), tmp_path / "x" / tower)
        load_lora(loras_of(parts), tmp_path / "x")

    assert agree(parts, pipe, load)


def test_files_that_diffusers_writes_are_read(parts: ModelParts, pipe, tmp_path: Path) -> None:
    unet = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_out.0", "conv1"])
    text = peft.LoraConfig(r=2, lora_alpha=5, init_lora_weights=False, target_modules=["q_proj", "fc1"])

    def load() -> None:
        torch.manual_seed(0)
        pipe.unet.add_adapter(unet)
        peft.inject_adapter_in_model(text, pipe.text_encoder)  # transformers' own method asks for a newer peft
        pipe.save_lora_weights(
            tmp_path,
            peft.get_peft_model_state_dict(pipe.unet),
            peft.get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
            unet_lora_adapter_metadata=unet.to_dict() | {"target_modules": sorted(unet.target_modules)},
            text_encoder_lora_adapter_metadata=text.to_dict() | {"target_modules": sorted(text.target_modules)},
        )
        report = load_lora(loras_of(parts), tmp_path / "pytorch_lora_weights.safetensors")
        assert report.style == "diffusers" and report.ranks == (2, 4)

    assert agree(parts, pipe, load)


@pytest.mark.parametrize("style", ["processor", "lora", "lora_linear_layer"])
def test_names_of_older_diffusers_are_read(style: str, parts: ModelParts, pipe, tmp_path: Path) -> None:
    deltas = every_layer(parts)
    tensors = {}
    names = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}
    for address, delta in deltas.items():
        head, _, last = address.removesuffix(".0").rpartition(".")
        last += ".0" if address.endswith("to_out.0") else ""
        if address.startswith("unet.") and ".attn" in address:
            stem = f"{head}.processor.{names.get(last, last)}_lora" if style == "processor" else f"{address}.lora"
        elif "self_attn" in address:
            stem = f"{head}.{names[last]}_lora" if style == "processor" else f"{address}.lora_linear_layer"
        else:
            continue
        tensors |= {f"{stem}.down.weight": delta.down, f"{stem}.up.weight": delta.up}
    if style == "lora_linear_layer":  # the text encoder's, beside today's names of the U-Net
        tensors = {key.replace(".lora.down", ".lora_A").replace(".lora.up", ".lora_B"): v for key, v in tensors.items()}
    save_file(tensors, tmp_path / "x.safetensors")

    def load() -> None:
        pipe.load_lora_weights(tmp_path / "x.safetensors")
        report = load_lora(loras_of(parts), tmp_path / "x.safetensors")
        assert (report.matched, report.style) == (len(tensors) // 2, "diffusers")

    assert agree(parts, pipe, load)


def test_several_at_once_are_what_diffusers_makes_of_them(parts: ModelParts, pipe, tmp_path: Path) -> None:
    layers = adaptable_layers({"unet": parts.unet})
    loras = loras_of(parts)
    for name, seed in (("a", 1), ("b", 2)):
        save_lora(tmp_path / f"{name}.safetensors", low_ranks(layers, seed, rank=4))
        pipe.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
        load_lora(loras, tmp_path / f"{name}.safetensors")
    loras.set_weights({"a": 0, "b": 0})
    base = ours(parts.unet)
    for weights in ((0.3, 0.9), (-0.5, 1.0), (0.0, 0.7)):
        pipe.set_adapters(["a", "b"], list(weights))
        loras.set_weights(dict(zip("ab", weights, strict=True)))
        assert close(ours(parts.unet), theirs(pipe.unet, parts.unet.config), base)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=3, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False),
        peft.LoraConfig(r=3, target_modules=r".*(attn1|ff).*(to_k|proj)", init_lora_weights=False, use_rslora=True),
        peft.LoraConfig(
            r=3,
            lora_alpha=4,
            target_modules=["to_q", "conv2"],
            init_lora_weights=False,
            rank_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 5, "attn2.to_q": 1},
            # In the order in which PEFT writes them: the first that fits counts.
            alpha_pattern={".*attn1.to_q": 2, "^up_blocks.0.resnets.0.conv2": 7, "conv2": 9},
        ),
        peft.LoraConfig(
            r=3, lora_alpha=4, target_modules=["to_q", "proj_in", "conv1"], init_lora_weights=False, use_dora=True
        ),
        peft.LoHaConfig(r=2, alpha=3, target_modules=["to_q", "conv1", "proj_in"], init_weights=False),
        peft.LoHaConfig(r=2, alpha=3, target_modules=["conv1"], init_weights=False, use_effective_conv2d=True),
        peft.LoKrConfig(r=2, alpha=3, target_modules=["to_q", "conv1", "proj_in"], init_weights=False),
        peft.LoKrConfig(r=2, alpha=3, target_modules=["to_v"], init_weights=False, decompose_both=True),
        peft.LoKrConfig(r=8, alpha=3, target_modules=["to_q"], init_weights=False, rank_pattern={"attn1.to_q": 4}),
        peft.LoKrConfig(r=2, alpha=3, target_modules=["conv1"], init_weights=False, use_effective_conv2d=True),
    ],
    ids=[
        "linear",
        "rslora",
        "patterns",
        "dora",
        "loha",
        "loha-tucker",
        "lokr",
        "lokr-both",
        "lokr-whole",
        "lokr-tucker",
    ],
)
def test_folders_that_peft_writes_are_read(config, parts: ModelParts, pipe, tmp_path: Path) -> None:
    base = ours(parts.unet)
    torch.manual_seed(0)
    model = peft.get_peft_model(pipe.unet, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "hada_" in name or "lokr_" in name:
                parameter.mul_(2.0 if "hada_" in name else 0.5)
    model.save_pretrained(tmp_path / "x")
    report = load_lora(LoraSet(parts.unet), tmp_path / "x")
    assert report.style == "peft" and report.unmatched == ()
    assert close(ours(parts.unet), theirs(pipe.unet, parts.unet.config), base)


def test_sdxl_files_of_kohya_do_the_same_in_diffusers(tmp_path: Path) -> None:
    """kohya calls the layers of SDXL as CompVis does; diffusers is the one who knows which these are."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    from ldm.io.keys.unet_keys import UNetPlan, unet_modules

    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        transformer_layers_per_block=[1, 1, 2],
        use_linear_projection=True,
    )
    unet = UNet(unet_config(network.config, "test")[0])
    unet.load_state_dict(network.state_dict())
    layers = adaptable_layers({"unet": unet})
    turned = {ours_: theirs_ for theirs_, ours_ in unet_modules(UNetPlan.of(unet.config)).items()}
    tensors = {}
    for address, delta in low_ranks(layers, rank=2, scale=0.5).items():
        name = address.removeprefix("unet.")
        if not any(part in name for part in ("attentions", "resnets", "samplers")):
            continue
        start = next(name[:end] for end in range(len(name), 0, -1) if name[:end] in turned)
        stem = "lora_unet_" + (turned[start] + name[len(start) :]).replace(".", "_")
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = delta.down, delta.up
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "x.safetensors")
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(tensors), network.config)
    state, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(mapped)
    base = ours(unet)
    network.load_lora_adapter(state, network_alphas=alphas, prefix="unet")
    assert load_lora(LoraSet(unet), tmp_path / "x.safetensors").matched == len(tensors) // 3
    assert close(ours(unet), theirs(network, unet.config), base)


def test_picture_of_the_pipeline_is_that_of_diffusers(tiny_folder: Path, pipe, tmp_path: Path) -> None:
    from ldm import LatentDiffusion

    model = LatentDiffusion.from_pretrained(tiny_folder)
    save_lora(tmp_path / "x.safetensors", every_layer(model.parts))
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    base = model("a red apple", latents=latents, **options).images
    load_lora(loras_of(model.parts), tmp_path / "x.safetensors", 0.5)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path / "x.safetensors", adapter_name="x")
    pipe.set_adapters(["x"], [0.5])
    expected = pipe("a red apple", latents=latents, **options).images
    found = model("a red apple", latents=latents, **options).images
    assert abs(found - expected).max() < 1e-4 < 1e-2 < abs(base - expected).max()
