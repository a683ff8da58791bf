"""The command line: what cannot be done is one line, and leaves nothing."""

import shutil
from pathlib import Path

import pytest
from command_line import QUICK, complaint, generate, ldm, pictures
from PIL import Image


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_family_is_for_single_files(tiny_folder: Path, tmp_path: Path) -> None:
    message = complaint(generate(tiny_folder, "x", *QUICK, "--family", "sd1"))
    assert "--family is for single files" in message and "says itself what it is" in message


def test_inspect_of_anything_else_is_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes((tmp_path / "plain.png").read_bytes()[:50])
    assert "plain.png carries no recipe" in complaint(ldm("inspect", "plain.png"))
    assert "text.png is not a picture" in complaint(ldm("inspect", "text.png"))
    assert "half.png" in complaint(ldm("inspect", "half.png"))
    assert "none.png does not exist" in complaint(ldm("inspect", "none.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "PROMPT is missing or empty; say what to draw"),
        (["  \n"], "PROMPT is missing or empty"),
        ([], "PROMPT is missing"),
        (["x", "--height", "130"], "height=130 is not a multiple of 8; use 128 or 136"),
        (["x", "--width", "0"], "--width 0 is not possible"),
        (["x", "--steps", "0"], "--steps 0 is not possible; use 1 to 10,000"),
        (["x", "--steps", "-5"], "--steps -5 is not possible"),
        (["x", "--steps", "many"], "steps"),
        (["x", "--n", "0"], "--n 0 is not possible; use 1 to 1,000,000"),
        (["x", "--sampler", "eular"], "unknown sampler 'eular'; did you mean 'euler'"),
        (["x", "--schedule", "karas"], "unknown schedule 'karas'; did you mean 'karras'"),
        (["x", "--seed", "-1"], "--seed -1 is not possible; use 0 to"),
        (["x", "--dtype", "float99"], "unknown dtype 'float99'"),
        (["x", "--device", "abacus"], "device='abacus'"),
        (["x", "--output", "x.jpg"], "--output x.jpg ends in .jpg; use a .png"),
        (["x", "--stepz", "3"], "--stepz"),
        (["half a character \udcff"], "PROMPT is not valid UTF-8"),
        (["x", "--negative-prompt", "half \udcff"], "--negative-prompt is not valid UTF-8"),
        (["x", "--wildcards", "\udcff"], "--wildcards is not valid UTF-8"),
        (["x", "--lora", "\udcff=0.5"], "--lora is not valid UTF-8"),
        (["x", "--region", "mask.png=\udcff"], "--region mask.png is not valid UTF-8"),
        (["word " * 7000], "PROMPT has 35,000 characters; use at most 32,000"),
        (["x", "--negative-prompt", "y" * 32_001], "--negative-prompt has 32,001 characters"),
        (["x", "--n", "100000000000000000000"], "--n 100000000000000000000 is not possible; use 1 to 1,000,000"),
        (["x", "--steps", "1000000000"], "--steps 1000000000 is not possible; use 1 to 10,000"),
        (["x", "--width", "80000000"], "--width 80000000 is not possible; use 8 to 65,536"),
        (["x", "--batch-size", "1" + "0" * 30], "is not possible; use 1 to 1,000,000"),
        (["x", "--cfg-scale", "1e308"], "--cfg-scale 1e+308 is not possible; use -10,000 to 10,000"),
        (["x", "--cfg-scale", "nan"], "--cfg-scale nan is not possible"),
        (["x", "--guidance", "pag_scale=1e308"], "guidance option pag_scale=1e+308 is beyond sense"),
        (["x", "--guidance", "pag_scale=1" + "0" * 400], "guidance option pag_scale=1000"),
        (["x", "--guidance", "pag_scale=" + "[" * 3000 + "]" * 3000], "guidance option pag_scale="),
        (["x", "--guidance", "pag_scale=NaN"], "--guidance pag_scale=nan is no number"),
        (["x", "--guidance", "pag_scale=" + "1" * 5000], "guidance option pag_scale="),
        (["x", "--sampler", "euler_ancestral", "--sampler-option", "eta=NaN"], "--sampler-option eta=nan is no number"),
        (["x", "--sampler", "euler_ancestral", "--sampler-option", "eta=nan"], "option eta='nan' must be a number"),
        (["x", "--sampler", "euler_ancestral", "--sampler-option", "eta=1" + "0" * 400], "must be a number"),
        (["x", "--schedule", "karras", "--schedule-option", "rho=true"], "option rho=True must be a number"),
        (["x", "--device", "meta"], "device='meta' cannot be used here"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_2(
    tiny_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = generate(tiny_folder, *arguments)
    assert message in complaint(result)
    assert result.exit_code == 2
    assert pictures(tmp_path) == []


def test_unknown_command_and_model_are_one_line(tmp_path: Path) -> None:
    assert "paint" in complaint(ldm("paint", "x"))
    result = ldm("generate", "x", "--model", "emojo")
    assert "model 'emojo' is neither shipped nor a folder" in complaint(result)
    assert result.exit_code == 1


@pytest.mark.parametrize("kept", [None, 100])
def test_missing_or_truncated_weights_are_one_line(tiny_folder: Path, tmp_path: Path, kept: int | None) -> None:
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if kept is not None:
        weights.write_bytes(content[:kept])
    result = generate(model, "x", *QUICK, "--output", "out")
    assert f"{weights} is {'missing' if kept is None else 'truncated'}" in complaint(result)
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_output_below_a_file_is_one_line_before_anything_is_drawn(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for output in ("file/pictures", "file/x.png"):
        result = generate(tiny_folder, "x", *QUICK, "--output", output)
        assert f"--output {output} cannot be written" in complaint(result)
        assert result.exit_code == 1
    result = generate(tiny_folder, "x", *QUICK, "--output", "/proc/nowhere/x.png")
    assert "--output /proc/nowhere/x.png cannot be written" in complaint(result)


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setenv("LDM_TRACEBACK", "1")
    result = generate(tiny_folder, "")
    assert isinstance(result.exception, ValueError)


def test_training_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert "config none.yaml does not exist, nor a recipe" in complaint(ldm("train", "none.yaml"))
    (tmp_path / "x.yaml").write_text("task: ldm\noutput: out\nlop:\n  seed: 1\n")
    assert "lop" in complaint(ldm("train", "x.yaml"))
    assert "'loud' is no setting" in complaint(ldm("train", "x.yaml", "loud"))


def test_evaluation_needs_a_data_set(tiny_folder: Path) -> None:
    result = ldm("eval", str(tiny_folder), "--data", "nowhere")
    assert "nowhere" in complaint(result) and result.exit_code == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance", "pag_scal=3"], "unknown guidance option 'pag_scal'; did you mean 'pag_scale'"),
        (["--guidance", "pag_scale=much"], "pag_scale='much' must be a number"),
        (["--guidance", "pag_scale"], "--guidance pag_scale has no value; write NAME=VALUE"),
        (["--guidance", "guidance_method=cfg++"], "must be between 0 and 1 with guidance_method='cfg++'"),
        (["--sampler-option", "etta=1"], "has no option 'etta'"),
        (["--schedule", "karras", "--schedule-option", "roh=1"], "has no option 'roh'"),
        (["--prompt-syntax", "sd"], "a1111"),
        (["--lora", "no.safetensors=x"], "'x' is no weight"),
        (["--lora", "no.safetensors"], "no.safetensors"),
        (["--region", "no.png=sea"], "no.png"),
        (["--clip-skip", "9"], "clip_skip=9"),
        (["--sampler", "ddim_inversion"], "unknown sampler 'ddim_inversion'"),
    ],
)
def test_wrong_options_are_named(tiny_folder: Path, options: list[str], message: str) -> None:
    assert message in complaint(generate(tiny_folder, "x", *QUICK, *options))
