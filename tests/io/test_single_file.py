"""Single files are opened as what they are: the networks compute what diffusers' and transformers' compute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from single_files import PUBLISHED, State, make_unet, prefixed, unet_part, whole_file

from conditioning.bundle import Conditioning
from ldm.io.disk.files import ModelFileError
from ldm.io.single_file.checkpoint import read_checkpoint
from ldm.io.single_file.load import load_single_file, model_of
from ldm.io.vae import read_autoencoder
from ldm.process import DiscreteVP

Whole = tuple[Path, State, dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """A family's tiny model as a file, its state, and the networks that it was made of; made once."""
    made: dict[str, Whole] = {}

    def get(family: str) -> Whole:
        if family not in made:
            path = tmp_path_factory.mktemp("single") / f"{family}.safetensors"
            state, networks = whole_file(family)
            save_file(state, path)
            made[family] = (path, state, networks)
        return made[family]

    return get


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes online fails."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(folder: Path, state: State, metadata: dict[str, str] | None = None, name: str = "x.safetensors") -> Path:
    save_file(state, folder / name, metadata)
    return folder / name


def unet_only(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("model.diffusion_model.")}


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", PUBLISHED)
def test_networks_compute_what_they_computed_elsewhere(whole, family: str) -> None:
    path, _, made = whole(family)
    networks = load_single_file(path, prediction_type="epsilon" if family == "sd2" else None)
    towers = [tower.model for tower in networks.text.towers]
    ids = torch.randint(0, 49408, (2, 77), generator=torch.Generator().manual_seed(3))
    ids[:, 0], ids[:, 20:] = 49406, 49407
    tokens, pooled = [], None
    for mine, theirs in zip(towers, made["texts"], strict=True):
        a = mine(ids, output_hidden_states=True)
        b = theirs(ids, output_hidden_states=True)
        if family in ("sd2", "x4-upscaler"):  # SD 2 runs all layers but the last, and norms what comes out
            close(a.last_hidden_state, theirs.text_model.final_layer_norm(b.hidden_states[-2]))
            tokens.append(a.last_hidden_state)
        else:
            for name in ("last_hidden_state", "text_embeds", "pooler_output"):
                if getattr(b, name, None) is not None:
                    close(getattr(a, name), getattr(b, name))
            close(a.hidden_states[-2], b.hidden_states[-2])
            tokens.append(b.hidden_states[-2])
            pooled = getattr(b, "text_embeds", pooled)
    x = torch.randn(2, networks.unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(4))
    time, context, extra = torch.tensor([10, 700]), torch.cat(tokens, -1), {}
    conditioning = Conditioning(tokens=context)
    if family == "x4-upscaler":
        extra = {"class_labels": torch.tensor([3, 7])}
        conditioning = replace(conditioning, labels=extra["class_labels"])
    elif family.startswith("sdxl"):
        sizes = torch.arange(12.0 if family == "sdxl" else 10.0).reshape(2, -1) * 100
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        conditioning = replace(conditioning, pooled=pooled, sizes=sizes)
    expected = made["unet"](x, time, encoder_hidden_states=context, **extra).sample
    close(networks.unet(x, time, conditioning), expected)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    encoded = made["vae"].encode(picture).latent_dist
    close(networks.autoencoder.encode(picture).mean, encoded.mean)
    close(networks.autoencoder.decode(encoded.mean), made["vae"].decode(encoded.mean).sample)


@torch.no_grad()
def test_a_whole_model_draws_from_a_prompt(whole) -> None:
    from ldm.pipeline.pipeline import LatentDiffusion

    path, _, made = whole("sd1")
    parts = load_single_file(path)
    ids, _ = parts.text.tokenize(["a photo of a cat"])
    close(parts.text.encode(["a photo of a cat"]).tokens, made["texts"][0](ids).last_hidden_state)
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    for family in ("sd1", "sdxl"):
        pipeline = LatentDiffusion.from_single_file(whole(family)[0], device="cpu")
        picture = pipeline("a cat", num_inference_steps=2, width=64, height=64, seed=1, output_type="pt").images
        assert picture.shape == (1, 3, 64, 64)


@torch.no_grad()
def test_prompts_are_read_by_both_encoders_of_sdxl(whole) -> None:
    path, _, made = whole("sdxl")
    parts = load_single_file(path)
    encoded = parts.text.encode(["a cat"])
    states, pooled = [], None
    for tower, theirs in zip(parts.text.towers, made["texts"], strict=True):
        output = theirs(tower.tokenize(["a cat"])[0], output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = getattr(output, "text_embeds", None)
    close(encoded.tokens, torch.cat(states, -1))
    close(encoded.pooled, pooled)
    assert [tower.tokenizer.pad_token_id for tower in parts.text.towers] == [49407, 0]


def test_families_have_their_own_settings(whole) -> None:
    sd1, sd2 = load_single_file(whole("sd1")[0]), load_single_file(whole("sd2")[0], prediction_type="v_prediction")
    assert (sd1.prediction_type, sd1.defaults.width, sd1.latent_format.scale) == ("epsilon", 512, 0.18215)
    assert (sd2.prediction_type, sd2.defaults.width) == ("v_prediction", 768)
    assert sd1.text.tokenizer.pad_token_id == 49407 and sd2.text.tokenizer.pad_token_id == 0
    assert sd1.text.model.config.hidden_act == "quick_gelu" and sd2.text.model.config.hidden_act == "gelu"
    for parts in (sd1, sd2):
        process = parts.process
        assert isinstance(process, DiscreteVP)
        table = (process.beta_schedule, process.beta_start, process.beta_end)
        assert table == ("scaled_linear", 0.00085, 0.012)


@pytest.mark.parametrize(
    ("family", "channels", "metadata", "markers", "expected"),
    [
        ("sd1", 4, {}, (), "epsilon"),
        ("sd1", 4, {"modelspec.prediction_type": "v"}, (), "v_prediction"),
        ("sd2", 4, {}, (), None),
        ("sd2", 4, {"modelspec.prediction_type": "epsilon"}, (), "epsilon"),
        ("sd2", 4, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, (), "v_prediction"),
        ("sd2", 4, {"modelspec.architecture": "stable-diffusion-v2-512"}, (), "epsilon"),
        ("sd2", 9, {}, (), "epsilon"),
        ("sd2", 5, {}, (), "epsilon"),
        ("sdxl", 4, {}, (), "epsilon"),
        ("sdxl", 4, {}, ("v_pred",), "v_prediction"),
        ("sdxl", 4, {}, ("v_pred", "ztsnr"), "v_prediction"),
        ("x4-upscaler", 7, {}, (), "v_prediction"),
    ],
)
def test_prediction_is_found_or_left_open(
    tmp_path: Path, family: str, channels: int, metadata: dict, markers: tuple, expected: str | None
) -> None:
    state = prefixed("model.diffusion_model.", unet_part(family, make_unet(family, in_channels=channels)))
    state |= {marker: torch.zeros(0) for marker in markers}
    state["global_step"] = torch.tensor(875000)  # the step by which others guess
    prediction = read_checkpoint(write(tmp_path, state, metadata)).prediction
    assert (prediction.prediction_type, prediction.zero_terminal_snr) == (expected, "ztsnr" in markers)


def test_where_nothing_tells_the_prediction_the_error_asks(whole) -> None:
    path = whole("sd2")[0]
    with pytest.raises(ValueError, match=r"sd2.safetensors is .*2.x, .*prediction_type='epsilon' or .*--prediction"):
        load_single_file(path)


def test_the_callers_word_wins_and_is_kept(tmp_path: Path, whole) -> None:
    _, state, _ = whole("sd1")
    path = write(tmp_path, state, {"modelspec.prediction_type": "epsilon"})
    checkpoint = read_checkpoint(path, prediction_type="v_prediction", zero_terminal_snr=True)
    assert checkpoint.load_options == {"prediction_type": "v_prediction", "zero_terminal_snr": "True"}
    parts = load_single_file(path, prediction_type="v_prediction", zero_terminal_snr=True)
    assert parts.prediction_type == "v_prediction" and parts.process.zero_terminal_snr
    assert parts.defaults.schedule == "trailing"
    with pytest.raises(ValueError, match="zero_terminal_snr=True with prediction_type='epsilon'"):
        load_single_file(path, prediction_type="epsilon", zero_terminal_snr=True)
    with pytest.raises(ValueError, match="unknown prediction_type 'velocity'"):
        load_single_file(path, prediction_type="velocity")
    marked = write(
        tmp_path, unet_only(whole("sdxl")[1]) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, name="m"
    )
    assert read_checkpoint(marked, prediction_type="epsilon").prediction.prediction_type == "epsilon"
    assert not read_checkpoint(marked, prediction_type="epsilon").prediction.zero_terminal_snr
    with pytest.raises(ValueError, match="unknown family 'sd3'"):
        load_single_file(path, family="sd3")
    assert read_checkpoint(whole("sd2")[0], family="sd2").load_options == {"family": "sd2"}
    with pytest.raises(ModelFileError, match=r"cond_stage_model\.transformer"):
        read_checkpoint(path, family="sd2")


def test_moving_average_is_taken_on_request(tmp_path: Path, whole) -> None:
    _, state, _ = whole("sd1")
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value + 1
        for name, value in unet_only(state).items()
    }
    path = write(tmp_path, state | average | {"model_ema.decay": torch.tensor(0.9999)})
    plain, ema = read_checkpoint(path), read_checkpoint(path, ema=True)
    for name, weight in plain.unet.items():
        torch.testing.assert_close(ema.unet[name].read(None), weight.read(None) + 1)
    assert any("moving average" in reason for reason in plain.ignored)
    assert sum(len(names) for names in ema.ignored.values()) == len(average) + 1
    with pytest.raises(ValueError, match=r"ema=True, but .*no moving average"):
        read_checkpoint(whole("sd1")[0], ema=True)


def test_needless_names_are_left_out_for_a_reason(tmp_path: Path, whole) -> None:
    needless = {
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "first_stage_model.loss.logvar": torch.zeros(()),
        "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
        "cond_stage_model.logit_scale": torch.zeros(()),
    }
    checkpoint = read_checkpoint(write(tmp_path, whole("sd1")[1] | needless))
    assert {name for names in checkpoint.ignored.values() for name in names} == needless.keys()
    model_of(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.1.0.surprise.weight",
        "model.diffusion_model.surprise.weight",
        "first_stage_model.encoder.surprise",
        "cond_stage_model.transformer.text_model.surprise",
        "surprise",
    ],
)
def test_a_name_with_no_place_is_an_error(tmp_path: Path, whole, name: str) -> None:
    path = write(tmp_path, whole("sd1")[1] | {name: torch.zeros(1)})
    with pytest.raises(ModelFileError, match=r"x\.safetensors: .*" + name.replace(".", r"\.")):
        load_single_file(path)


def test_old_names_of_the_text_encoder_are_read(tmp_path: Path, whole) -> None:
    _, state, _ = whole("sd1")
    old = {name.replace("transformer.text_model.", "transformer."): value for name, value in state.items()}
    assert load_single_file(write(tmp_path, old)).text.width == 64


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"double_blocks.0.img_attn.norm.key_norm.scale": 8}, "is FLUX"),
        ({"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": 8}, "is Stable Diffusion 3"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": 8}, "is a LoRA.*load_lora"),
        ({"control_model.time_embed.0.weight": 8}, "is a ControlNet"),
        ({"edm_mean": 4}, "is Playground v2.5"),
        ({"decoder.up.0.block.0.norm1.weight": 4}, "is an autoencoder alone"),
        ({"text_model.final_layer_norm.weight": 4}, "is a CLIP text encoder alone.*text_encoder/model.safetensors"),
        ({"weights": 4}, "is no Stable Diffusion checkpoint: it holds weights"),
        ({}, "is no Stable Diffusion checkpoint"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, state: dict[str, int], said: str) -> None:
    path = write(tmp_path, {name: torch.zeros(size) for name, size in state.items()})
    with pytest.raises(ModelFileError, match=r"x\.safetensors " + said):
        load_single_file(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"GGUF\x03\x00", "is GGUF.*fp16"),
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(start)
    with pytest.raises(ModelFileError, match=r"x\.safetensors .*" + said):
        load_single_file(tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=r"none\.safetensors is missing"):
        load_single_file(tmp_path / "none.safetensors")


@pytest.mark.parametrize("part", ["first_stage_model.", "cond_stage_model."])
def test_files_that_are_not_whole_say_what_they_lack(tmp_path: Path, whole, part: str) -> None:
    state = {name: value for name, value in whole("sd1")[1].items() if not name.startswith(part)}
    mend = "name one with --vae FILE" if part == "first_stage_model." else "`ldm convert"
    with pytest.raises(ModelFileError, match=rf"1.x without the (autoencoder|text encoder); {mend}"):
        load_single_file(write(tmp_path, state))


def test_a_file_without_an_autoencoder_opens_with_the_one_of_another(tmp_path: Path, whole) -> None:
    path, state, _ = whole("sd1")
    rest = {name: value for name, value in state.items() if not name.startswith("first_stage_model.")}
    parts, complete = load_single_file(write(tmp_path, rest), vae=read_autoencoder(path)), load_single_file(path)
    assert parts.latent_format == complete.latent_format
    state = complete.autoencoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in parts.autoencoder.state_dict().items())


def test_a_file_with_averages_alone_opens(tmp_path: Path, whole) -> None:
    path, state, _ = whole("sdxl")
    start = "model.diffusion_model."
    averages = {
        ("model_ema." + name.removeprefix("model.").replace(".", "")) if name.startswith(start) else name: value
        for name, value in state.items()
    }
    found = load_single_file(write(tmp_path, averages | {"model_ema.decay": torch.ones(())}))
    expected = load_single_file(path).unet.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.unet.state_dict().items())


def test_more_input_channels_than_any_variant_are_refused(tmp_path: Path) -> None:
    state = prefixed("model.diffusion_model.", unet_part("sd1", make_unet("sd1", in_channels=6)))
    with pytest.raises(
        ModelFileError, match=r"no Stable Diffusion 1.x with 6 input channels is known; there are 4 \(text to image\)"
    ):
        read_checkpoint(write(tmp_path, state))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_are_converted_from_the_type_they_are_stored_in(tmp_path: Path, whole, stored: torch.dtype) -> None:
    state = {name: value.to(stored) for name, value in whole("sd1")[1].items()}
    path = write(tmp_path, state)
    parts = load_single_file(path, dtype=torch.float32)
    expected = state["model.diffusion_model.out.2.weight"].float()
    assert torch.equal(parts.unet.conv_out.weight, expected)
    half = load_single_file(path, dtype=torch.float16)
    assert half.unet.conv_out.weight.dtype == torch.float16 and half.text.model.dtype == torch.float16
    assert half.autoencoder.quant_conv.weight.dtype == torch.float32  # its activations leave the range of fp16


def test_scaled_fp8_is_refused_by_name(tmp_path: Path, whole) -> None:
    state = unet_only(whole("sd1")[1]) | {"model.diffusion_model.scaled_fp8": torch.zeros(2)}
    with pytest.raises(ModelFileError, match="fp8 with a scale for each weight"):
        load_single_file(write(tmp_path, state))


def test_a_file_in_the_wanted_type_is_mapped_not_copied(whole) -> None:
    path, state, _ = whole("sd1")
    checkpoint = read_checkpoint(path)
    weight = checkpoint.unet["conv_out.weight"]
    one, other = weight.read(None), weight.read(torch.float32)
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert torch.equal(one, state["model.diffusion_model.out.2.weight"])


def test_a_checkpoint_of_tensors_opens_as_the_same_model(tmp_path: Path, whole) -> None:
    path, state, _ = whole("sd1")
    expected = load_single_file(path).unet.state_dict()
    nested = {"state_dict": state, "global_step": 470000, "epoch": 3, "optimizer_states": [{"state": {}}]}
    for name, content in (("nested.ckpt", nested), ("flat.pt", state)):
        torch.save(content, tmp_path / name)
        read = load_single_file(tmp_path / name).unet.state_dict()
        assert all(torch.equal(read[key], expected[key]) for key in expected)
    torch.save(unet_only(state), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.ckpt").family.name == "sd1"


def test_the_command_line_draws_from_a_file_and_records_the_options(tmp_path: Path, whole) -> None:
    from typer.testing import CliRunner

    from ldm.cli import app
    from ldm.generation.from_picture import request_from

    def generate(*options: object):
        return CliRunner().invoke(app, ["generate", *map(str, options)])

    size = ["--steps", 2, "--width", 64, "--height", 64, "--seed", 1]
    unsaid = generate("a cat", "--model", whole("sd2")[0], *size)
    assert unsaid.exit_code == 2 and "--prediction" in unsaid.stderr
    repeated = generate(
        "a cat", "--model", whole("sd2")[0], "--prediction", "v_prediction", *size, "-o", tmp_path / "x.png"
    )
    assert repeated.exit_code == 0, repeated.stderr
    assert request_from(tmp_path / "x.png")[0].load_options == {"prediction_type": "v_prediction"}
    assert generate("--from-image", tmp_path / "x.png", "-o", tmp_path / "y.png").exit_code == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    folder = generate("a cat", "--prediction", "epsilon", *size)
    assert folder.exit_code == 2 and "--prediction is for single files; emoji says itself" in folder.stderr
