"""Every Stable Diffusion family opens from diffusers' folders and draws what it draws there; and the way back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, NEGATIVE, PROMPTS, draw_there, make_family, save
from torch import Tensor

from conditioning.bundle import Conditioning
from conditioning.clip.pair import ClipPair
from ldm import LatentDiffusion
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.request import Request
from ldm.generation.resolve import resolve_request
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.load import load_folder

KINDS = {
    "inpainting": "inpainting",
    "sdxl-inpainting": "inpainting",
    "editing": "InstructPix2Pix",
    "depth": "depth",
    "upscaling": "upscaling",
}
Made = tuple[Path, Any]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes online fails."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A family's folder as diffusers saves it, which is not to be written in, and the pipeline; made once."""
    known: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            pipeline = make_family(name, folder)
            known[name] = save(pipeline, folder / "model"), pipeline
        return known[name]

    return get


def conditions_for(name: str, first: Tensor) -> ExtraConditioning:
    return ExtraConditioning(
        concat=first[:, 4:] if first.shape[1] > 4 else None, noise_level=9 if name == "upscaling" else None
    )


def draw_here(model: LatentDiffusion, name: str, first: Tensor, **options: Any) -> Tensor:
    options = {"negative_prompt": NEGATIVE, "num_inference_steps": 4, "guidance_scale": 5.0, **options}
    return model(
        PROMPTS, latents=first[:, :4], output_type="pt", conditions=conditions_for(name, first), **options
    ).images


def reopen(name: str, folder: Path) -> Any:
    """diffusers' pipeline by its class in the folder."""
    missing = {"depth_estimator": None, "feature_extractor": None} if name == "depth" else {}
    return DiffusionPipeline.from_pretrained(folder, **missing)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_what_it_draws_in_diffusers(made, name: str) -> None:
    folder, pipeline = made(name)
    expected, first = draw_there(name, pipeline)
    assert ((expected > 0.01) & (expected < 0.99)).float().mean() > 0.5  # there is something to compare
    assert (expected[0] - expected[1]).abs().max() > 0.1
    model = LatentDiffusion.from_pretrained(folder)
    assert model.parts.kind == KINDS.get(name, "text to image")
    torch.testing.assert_close(draw_here(model, name, first), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "counted"), [("sd1", {-1: 0, -2: 1, -3: 2}), ("sdxl", {-1: 0, -2: 0, -3: 1})])
def test_layers_counted_from_the_last_are_read_as_other_tools_do(made, name: str, counted: dict[int, int]) -> None:
    """A1111: `max(clip_skip, 2)` for SDXL (sgm's FrozenOpenCLIPEmbedder); ComfyUI: `stop_at_clip_layer` -2 there."""
    folder, _ = made(name)
    model = LatentDiffusion.from_pretrained(folder)
    for theirs, ours in counted.items():
        request = Request(prompt="a fox", seed=0, num_inference_steps=1)
        found = [resolve_request(model, replace(request, clip_skip=skip)).recipe for skip in (theirs, ours)]
        assert found[0].clip_skip == ours and found[0] == found[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_saved_here_draws_the_same_in_diffusers(made, tmp_path: Path, name: str) -> None:
    folder, pipeline = made(name)
    LatentDiffusion.from_pretrained(folder).save_pretrained(tmp_path / "model")
    again = reopen(name, tmp_path / "model")
    assert type(again) is type(pipeline)
    torch.testing.assert_close(draw_there(name, again)[0], draw_there(name, pipeline)[0], atol=1e-4, rtol=0)
    one, other = load_folder(folder), load_folder(tmp_path / "model")
    for field in ("latent_format", "process", "prediction_type", "defaults", "zeros_for_empty", "low_resolution"):
        assert getattr(one, field) == getattr(other, field), field


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_networks_of_a_family_compute_what_theirs_compute(made, name: str) -> None:
    folder, pipeline = made(name)
    parts = load_folder(folder)
    assert parts.text is not None
    generator = torch.Generator().manual_seed(4)
    close: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}
    for tower, suffix in zip(parts.text.towers, ("_2",) if name == "refiner" else ("", "_2"), strict=False):
        theirs = getattr(pipeline, f"text_encoder{suffix}")
        ids = getattr(pipeline, f"tokenizer{suffix}")(
            PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        assert torch.equal(tower.tokenize(PROMPTS)[0], ids)
        output = theirs(ids, output_hidden_states=True)
        encoded = tower.encode(PROMPTS)
        xl = name.startswith(("sdxl", "refiner"))
        torch.testing.assert_close(
            encoded.tokens, output.hidden_states[-2] if xl else output.last_hidden_state, **close
        )
        pooled = getattr(output, "text_embeds", None)
        torch.testing.assert_close(encoded.pooled, output.pooler_output if pooled is None else pooled, **close)
    encoded = parts.text.encode(PROMPTS)
    config = parts.unet.config
    x = torch.randn(2, config.in_channels, 8, 8, generator=generator)
    time, extra = torch.tensor([10, 700]), {}
    conditioning = Conditioning(tokens=encoded.tokens)
    if config.num_classes:
        conditioning = Conditioning(tokens=encoded.tokens, labels=torch.tensor([3, 7]))
        extra = {"class_labels": torch.tensor([3, 7])}
    if config.pooled_dim:
        sizes = torch.arange(2.0 * config.size_count).reshape(2, -1) * 100
        conditioning = Conditioning(tokens=encoded.tokens, pooled=encoded.pooled, sizes=sizes)
        extra = {"added_cond_kwargs": {"text_embeds": encoded.pooled, "time_ids": sizes}}
    expected = pipeline.unet(x, time, encoder_hidden_states=encoded.tokens, **extra).sample
    torch.testing.assert_close(parts.unet(x, time, conditioning), expected, **close)
    picture = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    encoded = pipeline.vae.encode(picture).latent_dist
    torch.testing.assert_close(parts.autoencoder.encode(picture).mean, encoded.mean, **close)
    torch.testing.assert_close(
        parts.autoencoder.decode(encoded.mean), pipeline.vae.decode(encoded.mean).sample, **close
    )


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "refiner"])
def test_both_key_layouts_of_clip_load(made, tmp_path: Path, name: str, prefix: str) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = made(name)
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    expected = load_folder(folder).text
    for path in copy.glob("text_encoder*/model.safetensors"):
        tensors = {key.removeprefix("text_model."): value for key, value in load_file(path).items()}
        renamed = {key if key.startswith("text_projection") else prefix + key: value for key, value in tensors.items()}
        constant = {"text_model.embeddings.position_ids": torch.arange(16)[None]}  # old files carry it along
        save_file({**renamed, **(constant if prefix else {})}, path)
    text = load_folder(copy).text
    assert expected is not None and text is not None
    assert torch.equal(text.encode(PROMPTS).tokens, expected.encode(PROMPTS).tokens)
    assert torch.equal(text.encode(PROMPTS).pooled, expected.encode(PROMPTS).pooled)


def test_a_safety_checker_is_not_missed(made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made("sd1")[0], tmp_path / "model"))
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]  # and no such folder
    (copy / "model_index.json").write_text(json.dumps(index))
    assert load_folder(copy).kind == "text to image"


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_shards_and_half_precision_variants_open(made, tmp_path: Path, name: str) -> None:
    folder, pipeline = made(name)
    whole = load_folder(folder)
    save(pipeline, tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded" / "unet").glob("*.safetensors"))) > 1
    again = load_folder(tmp_path / "sharded")
    for network in ("unet", "autoencoder", "text"):
        mine, expected = getattr(again, network).state_dict(), getattr(whole, network).state_dict()
        assert all(torch.equal(mine[key], value) for key, value in expected.items()), network
    both = Path(shutil.copytree(folder, tmp_path / "both"))
    half = make_family(name, tmp_path / "half").to(torch.float16)
    save(half, both, variant="fp16", max_shard_size="30KB")
    assert any("fp16" in path.name for path in (both / "unet").iterdir())
    assert torch.equal(load_folder(both).unet.conv_in.weight, whole.unet.conv_in.weight)
    opened = load_folder(both, variant="fp16")
    assert torch.equal(opened.unet.conv_in.weight, whole.unet.conv_in.weight.half().float())
    only = save(half, tmp_path / "only", variant="fp16")
    assert torch.equal(load_folder(only).unet.conv_in.weight, opened.unet.conv_in.weight)
    with pytest.raises(ModelFileError, match="has no weights of variant='fp8'; leave the variant out"):
        LatentDiffusion.from_pretrained(both, variant="fp8")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inpainting", {}, r"is for inpainting and needs a picture: .* with 5 channels, the mask \(1 where"),
        ("editing", {}, "is for InstructPix2Pix and needs a picture: .* with 4 channels, the autoencoder's latents"),
        ("depth", {}, "is for depth and needs a picture: .* with 1 channels, the depth map"),
        ("upscaling", {"noise_level": 3}, "is for upscaling and needs a picture: .* with 3 channels, the small"),
        ("upscaling", {"concat": torch.zeros(1, 3, 8, 8)}, "needs the noise_level of its picture: 0 to 19"),
        ("upscaling", {"concat": torch.zeros(1, 3, 8, 8), "noise_level": 20}, "noise_level=20 is out of range"),
        ("depth", {"concat": torch.zeros(1, 2, 8, 8)}, r"concat is \(1, 2, 8, 8\); .* needs \(1, 1, 8, 8\)"),
        ("depth", {"concat": torch.zeros(3, 1, 8, 8)}, r"concat is \(3, 1, 8, 8\)"),
        ("sd1", {"concat": torch.zeros(1, 1, 8, 8)}, "needs none: it is for text to image"),
        ("sd1", {"noise_level": 1}, "noise_level=1 was given to a model that takes none"),
        (
            "sd1",
            {"original_size": (64, 64)},
            r"original_size=\(64, 64\) was given to a model that takes no such number",
        ),
        ("sdxl", {"aesthetic_score": 7.0}, "aesthetic_score=7.0 was given to a model"),
        ("refiner", {"target_size": (64, 64)}, r"target_size=\(64, 64\) was given to a model"),
        ("sdxl", {"original_size": (64,)}, r"original_size=\(64,\) is not two whole numbers"),
    ],
)
def test_a_call_without_what_the_model_needs_says_what(made, name: str, options: dict, message: str) -> None:
    model = LatentDiffusion.from_pretrained(made(name)[0])
    with pytest.raises(ValueError, match=message) as error:
        model("apple", num_inference_steps=2, conditions=ExtraConditioning(**options))
    assert "\n" not in str(error.value)


def test_the_size_of_a_picture_is_that_of_its_condition(made) -> None:
    model = LatentDiffusion.from_pretrained(made("depth")[0])
    drawn = model(
        "apple", seed=1, num_inference_steps=2, conditions=ExtraConditioning(concat=torch.zeros(1, 1, 10, 12))
    )
    assert drawn.images[0].size == (48, 40) and drawn.recipes == []


def test_one_condition_serves_all_pictures_and_each_may_have_its_own(made) -> None:
    model = LatentDiffusion.from_pretrained(made("inpainting")[0])
    concat = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))

    def draw(prompts: list[str], concat: Tensor, seed: int = 3) -> Tensor:
        options = {"num_inference_steps": 2, "output_type": "pt", "seed": seed}
        return model(prompts, conditions=ExtraConditioning(concat=concat), **options).images

    # The second prompt fills two chunks, so the two are not drawn in one batch.
    prompts = ["apple", "a red apple " * 9]
    both = draw(prompts, concat)
    torch.testing.assert_close(both[:1], draw(prompts[:1], concat[:1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[1:], draw(prompts[1:], concat[1:], 4), atol=1e-5, rtol=0)
    same = draw(prompts, concat[1:])
    torch.testing.assert_close(same[1:], both[1:], atol=1e-5, rtol=0)
    assert not torch.allclose(same[:1], both[:1], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder: 'T5EncoderModel' is not supported"),
        ({"text_encoder": [None, None]}, "model_index.json: text_encoder is missing"),
        ({"text_encoder": "CLIPTextModel"}, "text_encoder='CLIPTextModel' is not a library and a class"),
    ],
)
def test_text_encoders_of_other_kinds_are_refused_by_name(made, tmp_path: Path, change: dict, message: str) -> None:
    copy = Path(shutil.copytree(made("sd1")[0], tmp_path / "model"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(ModelFileError, match=message):
        load_folder(copy)


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("sd1", "vae", {"latents_mean": [0.1] * 4, "latents_std": [1.1] * 4}, "only pipelines of Stable Diffusion XL"),
        ("sdxl", "vae", {"latents_mean": [0.1] * 4}, "latents_mean=.* with latents_std=None is not supported"),
        ("sdxl", "vae", {"latents_mean": [0.1], "latents_std": [1.0]}, "with 4 numbers each, are"),
        ("sdxl", "unet", {"in_channels": 6}, "unet"),
    ],
)
def test_what_cannot_be_honoured_is_refused(made, tmp_path: Path, name, file, change: dict, message: str) -> None:
    copy = Path(shutil.copytree(made(name)[0], tmp_path / "model"))
    path = copy / file / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFileError, match=message):
        load_folder(copy)


def test_the_pair_is_two_towers_side_by_side(made) -> None:
    text = load_folder(made("sdxl")[0]).text
    assert isinstance(text, ClipPair)
    assert (text.width, text.pooled_width, text.max_tokens) == (32, 16, 14)
    first, second = (tower.tokenize(["a"])[0][0, -1].item() for tower in text.towers)
    assert first == text.towers[0].tokenizer.eos_token_id and second == text.tokenizer.get_vocab()["!"] != first
