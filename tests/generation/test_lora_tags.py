"""`<lora:name:0.8>` in a prompt holds for its own picture, and for nobody else's."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm import LatentDiffusion

UNET_LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT_LAYER = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def draw(model: LatentDiffusion, prompt: str | list[str], seed: int = 3) -> Tensor:
    options = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 3.0}
    return model(prompt, seed=seed, **options).images


def lora(model: LatentDiffusion, path: Path, seed: int) -> Path:
    """A LoRA of rank 2 for one layer of the U-Net and one of the text encoder."""
    generator = torch.Generator().manual_seed(seed)
    assert model.parts.text is not None
    layers = {
        UNET_LAYER: model.parts.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q,
        TEXT_LAYER: model.parts.text.towers[0].model.get_submodule("encoder.layers.0.mlp.fc1"),
    }
    factors = {}
    for name, layer in layers.items():
        outputs, inputs = layer.weight.shape
        factors[f"{name}.lora_down.weight"] = torch.randn(2, inputs, generator=generator)
        factors[f"{name}.lora_up.weight"] = torch.randn(outputs, 2, generator=generator)
    save_file(factors, path)
    return path


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> LatentDiffusion:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert model.load_lora(lora(model, tmp_path / "ink.safetensors", 1), weight=0.0).matched == 2
    model.load_lora(lora(model, tmp_path / "oil.safetensors", 2), weight=0.1)
    return model


def bits(model: LatentDiffusion) -> list[Tensor]:
    return [value.clone() for part in (model.parts.unet, model.parts.text) for value in part.state_dict().values()]


def test_a_tag_counts_for_its_own_picture(model: LatentDiffusion) -> None:
    both = draw(model, ["apple", "apple<lora:ink:1>"])
    torch.testing.assert_close(both[:1], draw(model, "apple"), atol=1e-5, rtol=0)
    alone = draw(model, "apple<lora:ink:1>", seed=4)
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(alone, draw(model, "apple", seed=4), atol=1e-4)
    with pytest.raises(ValueError, match="unknown LoRA 'inc'; did you mean 'ink'"):
        draw(model, "apple<lora:inc:1>")


def test_a_tag_is_the_weight_that_the_lora_could_have(model: LatentDiffusion) -> None:
    for tag, weight in (("<lora:ink:0.7>", 0.7), ("<lora:ink:0.2:0.7>", {"unet": 0.7, "text_encoder": 0.2})):
        tagged = draw(model, f"apple{tag}")
        model.loras.set_weights({"ink": weight})
        assert torch.equal(tagged, draw(model, "apple"))
        model.loras.set_weights({"ink": 0.0})


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 8])
def test_threads_with_different_tags_draw_the_bytes_of_the_serial_run(model: LatentDiffusion, threads: int) -> None:
    prompts = ["apple<lora:ink:1>", "apple", "apple<lora:ink:-1>", "apple<lora:oil:0.5>", "apple<lora:oil:0><lora:ink>"]
    prompts = [prompts[number % len(prompts)] for number in range(4 * threads)]
    before = bits(model)
    serial = [draw(model, prompt) for prompt in prompts]
    assert len({tuple(picture.flatten().tolist()) for picture in serial}) == min(5, len(prompts))
    with ThreadPoolExecutor(threads) as pool:
        parallel = list(pool.map(lambda prompt: draw(model, prompt), prompts))
    assert [torch.equal(*pair) for pair in zip(serial, parallel, strict=True)] == [True] * len(prompts)
    assert all(torch.equal(*pair) for pair in zip(before, bits(model), strict=True))


def test_a_drawing_that_breaks_off_leaves_the_weights(model: LatentDiffusion) -> None:
    before = bits(model)

    def stop(step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model("apple<lora:ink:1>", num_inference_steps=3, callback=stop)
    assert all(torch.equal(*pair) for pair in zip(before, bits(model), strict=True))
    assert model.loras.weights == {"ink": 0.0, "oil": 0.1}


def test_a_tag_holds_in_a_pattern_whose_convolutions_go_round(model: LatentDiffusion, tmp_path: Path) -> None:
    """A LoRA of a convolution draws by its tag what it draws when it is merged, also where edges meet."""
    generator = torch.Generator().manual_seed(0)
    weight = model.parts.unet.mid_block.resnets[0].conv1.weight
    name = "lora_unet_mid_block_resnets_0_conv1"
    factors = {f"{name}.lora_down.weight": torch.randn(2, *weight.shape[1:], generator=generator)}
    factors |= {f"{name}.lora_up.weight": torch.randn(weight.shape[0], 2, 1, 1, generator=generator)}
    save_file(factors, tmp_path / "round.safetensors")
    model.load_lora(tmp_path / "round.safetensors", 0.0)
    options = {"num_inference_steps": 3, "output_type": "latent", "seamless": "xy", "seed": 3}
    plain, tagged = (model(f"a red apple{tag}", **options).images for tag in ("", "<lora:round:1>"))
    assert (tagged - plain).abs().max() > 1e-3
    model.loras.set_weights({"round": 1.0})
    torch.testing.assert_close(model("a red apple", **options).images, tagged)
