"""`ldm convert` and `ldm inspect`: folders and single files hold the same bits, and diffusers opens what is written."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from single_files import make_text, make_texts, make_unet, make_vae, prefixed, unet_part, whole_file
from torch import nn
from typer.testing import CliRunner

from conditioning.clip.vocabulary import PAD_EOS, PAD_ZERO, clip_vocabulary
from ldm.cli import app
from ldm.io.convert_dtype import convert_dtype
from ldm.io.disk.files import ModelFileError
from ldm.io.inspection import hash_file, inspect_model
from ldm.io.single_file.checkpoint import read_checkpoint
from ldm.io.single_file.from_folder import read_folder
from ldm.io.single_file.save import save_single_file
from ldm.io.single_file.to_folder import save_as_folder
from ldm.io.tensors.safetensors_file import read_safetensors, write_safetensors
from ldm.io.tensors.weights import in_memory

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FAMILIES = ("sd1", "sd2", "sdxl", "sdxl-refiner", "x4-upscaler")


def make_folder(family: str, folder: Path, v_prediction: bool = False, zero_snr: bool = False) -> Path:
    """A tiny model's folder as diffusers saves it, in fp16."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionPipeline,
        StableDiffusionUpscalePipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLPipeline,
    )
    from transformers import CLIPTokenizer

    v_prediction = v_prediction or family == "x4-upscaler"
    table = {**TABLE, "beta_start": 0.0001, "beta_end": 0.02} if family == "x4-upscaler" else TABLE
    scheduler = DDIMScheduler(
        **table,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction" if v_prediction else "epsilon",
        rescale_betas_zero_snr=zero_snr,
    )
    vae = make_vae(family)
    vae.register_to_config(scaling_factor={"sd1": 0.18215, "sd2": 0.18215, "x4-upscaler": 0.08333}.get(family, 0.13025))
    common: dict[str, Any] = {"vae": vae, "unet": make_unet(family), "scheduler": scheduler}
    vocabulary, merges = clip_vocabulary()
    first, second = (
        CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)
        for pad in (PAD_EOS, PAD_ZERO)
    )
    texts = make_texts(family)
    pipeline: Any
    if family in ("sd1", "sd2"):
        text = texts[0] if family == "sd1" else make_text(2, 64, "gelu")  # folders lack the layer that is not run
        own = {"text_encoder": text, "tokenizer": first if family == "sd1" else second}
        extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**common, **own, **extra)
    elif family == "x4-upscaler":
        own = {"text_encoder": make_text(2, 64, "gelu"), "tokenizer": second, "low_res_scheduler": DDPMScheduler()}
        pipeline = StableDiffusionUpscalePipeline(**common, **own)
    else:
        own = {"text_encoder_2": texts[-1], "tokenizer_2": second}
        own |= {"text_encoder": None, "tokenizer": None} if len(texts) == 1 else {}
        own |= {} if len(texts) == 1 else {"text_encoder": texts[0], "tokenizer": first}
        kind = StableDiffusionXLImg2ImgPipeline if len(texts) == 1 else StableDiffusionXLPipeline
        pipeline = kind(**common, **own)
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.rglob("*.safetensors"):
        for name, value in load_file(file).items():
            short = name if name.startswith("text_projection") else name.removeprefix("text_model.")
            found[f"{file.parent.name}/{short}"] = value
    return found


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_folder_to_single_file_and_back_keeps_every_bit(family: str, tmp_path: Path) -> None:
    folder = make_folder(family, tmp_path / "folder", v_prediction=family == "sd2")
    save_single_file(read_folder(folder), tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.family.name == family
    assert checkpoint.prediction == read_checkpoint(tmp_path / "x.safetensors", family=family).prediction
    expected = "v_prediction" if family in ("sd2", "x4-upscaler") else "epsilon"
    assert checkpoint.prediction.prediction_type == expected
    save_as_folder(checkpoint, tmp_path / "again")
    assert same_bits(weights_in(tmp_path / "again"), weights_in(folder))
    for config in (tmp_path / "again").glob("text_encoder*/config.json"):  # opens in diffusers without a dtype
        assert json.loads(config.read_text())["dtype"] == "float32"
    save_single_file(read_folder(tmp_path / "again"), tmp_path / "y.safetensors")
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_draws_the_same_from_the_folder_that_we_write(family: str, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, DiffusionPipeline

    folder = make_folder(family, tmp_path / "folder")
    save_single_file(read_folder(folder), tmp_path / "x.safetensors")
    save_as_folder(read_checkpoint(tmp_path / "x.safetensors"), tmp_path / "again")
    pictures = []
    for path in (folder, tmp_path / "again"):
        pipeline = DiffusionPipeline.from_pretrained(path, torch_dtype=torch.float32, local_files_only=True)
        pipeline.scheduler = DDIMScheduler(**TABLE, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn = pipeline("a cat", num_inference_steps=2, width=64, height=64, generator=generator, output_type="latent")
        pictures.append(drawn.images)
    assert torch.equal(*pictures)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_opens_the_single_file_that_we_write(family: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = make_folder(family, tmp_path / "folder")
    save_single_file(read_folder(folder), tmp_path / "x.safetensors")
    for kind, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        read = kind.from_single_file(
            tmp_path / "x.safetensors", config=str(folder), subfolder=name, torch_dtype=torch.float16
        )
        expected = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        assert same_bits(dict(read.state_dict()), expected)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_v_prediction_of_sdxl_is_written_as_marker_keys(zero_snr: bool, tmp_path: Path) -> None:
    folder = make_folder("sdxl", tmp_path / "folder", v_prediction=True, zero_snr=zero_snr)
    save_single_file(read_folder(folder), tmp_path / "x.safetensors")
    stored = load_file(tmp_path / "x.safetensors")
    assert ("v_pred" in stored, "ztsnr" in stored) == (True, zero_snr)
    save_as_folder(read_checkpoint(tmp_path / "x.safetensors"), tmp_path / "again")
    fields = json.loads((tmp_path / "again" / "scheduler" / "scheduler_config.json").read_text())
    assert (fields["prediction_type"], fields.get("rescale_betas_zero_snr", False)) == ("v_prediction", zero_snr)


def test_a_folder_that_a_single_file_cannot_say_is_refused_by_field(tmp_path: Path) -> None:
    folder = make_folder("sd1", tmp_path / "folder")
    for file, field, value, said in (
        ("unet/config.json", "attention_head_dim", 4, "num_heads=.*takes it for"),
        ("vae/config.json", "scaling_factor", 0.5, "scaling_factor=0.5, but .*0.18215"),
        ("text_encoder/config.json", "hidden_act", "gelu", "hidden_act='gelu', not 'quick_gelu'"),
        ("scheduler/scheduler_config.json", "beta_end", 0.02, "beta_end=0.02, but .*0.012"),
    ):
        kept = (folder / file).read_text()
        (folder / file).write_text(json.dumps({**json.loads(kept), field: value}))
        with pytest.raises(ModelFileError, match=said):
            read_folder(folder)
        (folder / file).write_text(kept)
    read_folder(folder)


def test_the_callers_word_is_written_into_the_file(tmp_path: Path) -> None:
    state, _ = whole_file("sd2")
    save_file(state, tmp_path / "x.safetensors")
    checkpoint = read_checkpoint(tmp_path / "x.safetensors", prediction_type="v_prediction")
    save_single_file(checkpoint, tmp_path / "y.safetensors")
    metadata = read_safetensors(tmp_path / "y.safetensors")[1]
    assert (
        metadata["modelspec.prediction_type"] == "v" and metadata["ldm.load_options.prediction_type"] == "v_prediction"
    )
    assert read_checkpoint(tmp_path / "y.safetensors").prediction.source == "metadata modelspec.prediction_type"


def test_our_writer_writes_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5).to(torch.bfloat16),
        "a": torch.randn(4),
        "whole": torch.arange(7),
        "none": torch.zeros(0, 2),
        "number": torch.tensor(2.5),
        "eight": torch.randn(9).to(torch.float8_e4m3fn),
        "truth": torch.tensor([True, False]),
    }
    done: list[int] = []
    write_safetensors(tmp_path / "x", {k: in_memory(v) for k, v in tensors.items()}, {"ä": "ö"}, done.append)
    read = load_file(tmp_path / "x")
    assert read.keys() == tensors.keys() and sum(done) == sum(value.nbytes for value in tensors.values())
    assert all(torch.equal(read[k].view(torch.uint8), v.view(torch.uint8)) for k, v in tensors.items() if v.ndim)
    assert read["number"] == 2.5 and read_safetensors(tmp_path / "x")[1] == {"format": "pt", "ä": "ö"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def fail(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x", {"a": in_memory(torch.zeros(3))}, {}, fail)
    assert (tmp_path / "x").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_recast_changes_the_type_and_nothing_else(dtype: torch.dtype | None, tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 2), "ids": torch.arange(4), "alphas_cumprod": torch.rand(10)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.ckpt")
    assert convert_dtype(tmp_path / "x.ckpt", tmp_path / "y.safetensors", dtype) == ["epoch"]
    read = load_file(tmp_path / "y.safetensors")
    assert torch.equal(read["w"], state["w"].to(dtype or torch.float32)) and torch.equal(read["ids"], state["ids"])
    assert torch.equal(read["alphas_cumprod"], state["alphas_cumprod"])


def test_recast_of_a_folder_opens_as_the_same_model(tmp_path: Path) -> None:
    folder = make_folder("sd1", tmp_path / "folder")
    pickled = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(pickled), folder / "text_encoder" / "pytorch_model.bin")
    pickled.unlink()
    convert_dtype(folder, tmp_path / "bf16", torch.bfloat16)
    expected = {
        name: value.to(torch.bfloat16) for name, value in weights_in(make_folder("sd1", tmp_path / "b")).items()
    }
    assert same_bits(weights_in(tmp_path / "bf16"), expected)
    assert (tmp_path / "bf16" / "model_index.json").read_text() == (folder / "model_index.json").read_text()
    read_folder(tmp_path / "bf16")


def test_inspection_tells_what_a_file_is_without_reading_it(tmp_path: Path) -> None:
    state, made = whole_file("sdxl")
    path = tmp_path / "x.safetensors"
    save_file(state, path, {"modelspec.title": "tiny"})
    report = inspect_model(path)
    assert report.type == "Stable Diffusion XL, not of the published size"
    counts = [sum(p.numel() for p in net.parameters()) for net in (made["unet"], made["vae"], *made["texts"])]
    assert list(report.sizes.values()) == counts
    assert report.prediction.startswith("epsilon") and report.metadata == {"modelspec.title": "tiny"}
    assert report.dtypes == {"float32": len(state)}
    content = path.read_bytes()
    hashes = hash_file(path)
    assert hashes.sha256 == hashlib.sha256(content).hexdigest() and hashes.short == hashes.sha256[:10]
    assert hashes.old == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 8)}, path)
    assert inspect_model(path).type.startswith("a LoRA") and inspect_model(path).sizes == {"all": 32}


def ldm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_command_line_converts_and_inspects(tmp_path: Path) -> None:
    folder = make_folder("sd1", tmp_path / "folder")
    single, again, half = tmp_path / "x.safetensors", tmp_path / "again", tmp_path / "half.safetensors"
    assert ldm("convert", folder, single, "--to", "single").stdout.strip() == str(single)
    done = ldm("convert", single, again, "--to", "hf")
    assert done.exit_code == 0 and "Stable Diffusion 1.x; prediction: epsilon" in done.stderr, done.stderr
    assert same_bits(weights_in(again), weights_in(folder))
    assert ldm("convert", single, half, "--to", "bf16").exit_code == 0
    shown = ldm("inspect", half).stdout
    assert "Stable Diffusion 1.x" in shown and "bfloat16" in shown and "sha256" in shown
    assert json.loads(ldm("inspect", single, "--json").stdout)["sizes"]["autoencoder"] > 0
    unet: nn.Module = make_unet("sdxl")
    save_file(prefixed("model.diffusion_model.", unet_part("sdxl", unet)), single)
    assert ldm("convert", single, tmp_path / "alone", "--to", "hf").exit_code == 0
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["unet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("convert", "none", "y", "--to", "hf"), "none does not exist"),
        (("convert", "x.safetensors", "y", "--to", "gguf"), "unknown format --to 'gguf'"),
        (("convert", "x.safetensors", "y", "--to", "single"), "is a single file already"),
        (("convert", "x.safetensors", "y", "--to", "fp16", "--ema"), "--ema belongs to --to hf"),
        (("convert", "x.safetensors", "y", "--to", "hf"), "x.safetensors is Stable Diffusion 2.x.*--prediction"),
        (("inspect", "."), "is a folder"),
    ],
)
def test_command_line_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    if "x.safetensors" in arguments:
        save_file(whole_file("sd2")[0], tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    result = ldm(*arguments)
    assert result.exit_code in (1, 2) and result.stdout == "" and not (tmp_path / "y").exists()
    assert len(result.stderr.strip().splitlines()) == 1 and re.search(said, result.stderr), result.stderr
