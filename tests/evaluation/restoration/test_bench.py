"""`ldm eval restore`: what its table says of methods whose quality is known, and bad input in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from restorers import finding, random_network
from typer.testing import CliRunner

from ldm import LatentDiffusion, Restorer
from ldm.cli import app
from ldm.evaluation.restoration.bench import restoration_bench
from ldm.evaluation.restoration.damages import DAMAGES
from ldm.evaluation.restoration.filling import has_opencv
from ldm.evaluation.restoration.methods import METHODS, NEED_OPENCV, Method, restorer_methods
from ldm.evaluation.restoration.pictures import read_pictures
from ldm.evaluation.restoration.posterior_methods import KNOWN, autoencoded
from ldm.evaluation.restoration.settings import BEST
from ldm.evaluation.restoration.similarity import psnr
from ldm.evaluation.restoration.summary import CEILING, DEBIASED, INPUT
from ldm.evaluation.restoration.tuning import best_settings
from ldm.io.folder.restorer import save_restorer
from ldm.operators.composition import parse_operator


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of a coloured disc on white."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    (tmp_path / "in").mkdir()
    for number in range(3):
        colours = np.stack([200 - 40 * y, 120 + 60 * x, 50 * number + 0 * x], -1)
        picture = np.where((x**2 + y**2 < 0.3 + 0.1 * number)[..., None], colours, 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def ldm(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_the_command_writes_table_json_and_sheet(folder: Path):
    result = ldm("eval", "restore", "--data", "in", "--damage", "gaussian 25", "--damage", "x4", "-n", "2", "-o", "out")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "left out: Telea: OpenCV is not installed" in result.stdout or has_opencv()
    scores = json.loads(Path("out/scores.json").read_text())
    assert scores["pictures"] == 2
    assert scores["about"]["versions"]["torch"]
    assert scores["about"]["fingerprint"]
    assert {row["damage"] for row in scores["rows"]} == {"gaussian 25", "x4"}
    assert all(row["psnr"]["n"] == 2 and row["psnr"]["error"] is not None for row in scores["rows"])
    quality = {row["method"]: row["psnr"]["value"] for row in scores["rows"] if row["damage"] == "gaussian 25"}
    for name in ("NLM", "BM3D"):
        assert quality[name + DEBIASED] > quality[name] + 1.5 > quality[INPUT] + 1.5
    with Image.open("out/sheet.png") as sheet:
        assert sheet.width > 8 * 128
    assert "| x4 | Lanczos |" in Path("out/table.md").read_text()


def test_a_model_is_one_more_entry_and_a_perfect_one_has_perfect_scores(folder: Path):
    truths = [DAMAGES["jpeg 10"](truth, i).picture for i, truth in enumerate(read_pictures("in", "train", 3, 0)[0])]
    pictures = read_pictures("in", "train", 3, 0)[0]

    def oracle(damaged, settings):
        return next(p for p, y in zip(pictures, truths, strict=True) if torch.equal(y, damaged.picture))

    methods = {"oracle": Method("oracle", ("jpeg 10",), oracle)}
    scores = restoration_bench("in", folder.parent / "out", 3, ("jpeg 10",), methods=methods)
    row = next(row for row in scores.rows if row.method == "oracle")
    assert (row.psnr.value, row.ssim.value, row.perceptual.value) == (100, pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert row.psnr.n == 3
    given = next(row for row in scores.rows if row.method == INPUT)
    assert given.psnr.value == pytest.approx(np.mean([psnr(y, p) for y, p in zip(truths, pictures, strict=True)]))


@pytest.mark.slow
def test_a_models_posterior_and_its_autoencoder_are_columns(folder: Path, tiny_folder: Path):
    result = ldm(
        "eval",
        "restore",
        "--data",
        "in",
        "--damage",
        "x2",
        "--damage",
        "jpeg 10",
        "-n",
        "1",
        "--model",
        str(tiny_folder),
        "-o",
        "out",
        "--json",
    )
    assert result.exit_code == 0, result.output
    rows = {(row["damage"], row["method"]): row for row in json.loads(result.stdout)["rows"]}
    model, truth = LatentDiffusion.from_pretrained(tiny_folder), read_pictures("in", "train", 1, 0)[0][0]
    with torch.inference_mode():
        seen = (autoencoded(model, truth) * 255).round() / 255
    assert rows["x2", CEILING]["psnr"]["value"] == pytest.approx(psnr(seen, truth), abs=0.05)
    assert ("jpeg 10", CEILING) in rows and ("jpeg 10", "posterior mean") not in rows
    for name in ("posterior mean", "posterior sample"):
        assert rows["x2", name]["psnr"]["value"] > rows["x2", CEILING]["psnr"]["value"] + 5  # it has the block means


def test_every_operator_of_the_posterior_is_that_of_its_damage():
    truth = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    for name, (operator, level) in KNOWN.items():
        damaged, seen = DAMAGES[name](truth, 3), parse_operator(operator)(truth[None])[0]
        apart = damaged.picture - seen
        if damaged.mask is not None:
            apart = apart[:, ~damaged.mask]
        elif operator.startswith("blur"):
            apart = apart[:, 8:-8, 8:-8]  # at the edge one goes on as its mirror image, the other as its last pixel
        assert apart.std().item() * 255 == pytest.approx(level, rel=0.1, abs=0.05), name


def test_a_restorer_gets_the_damage_or_nothing_and_sees_the_truths_size():
    seen = []

    class Spy(Restorer):
        def restore(self, image, damage=None, **more):
            seen.append((tuple(image.shape), damage))
            return super().restore(image, damage, **more)

    network = finding(random_network(strength=0.0), blur=1.0)  # which changes nothing
    methods = restorer_methods(Spy(network))
    truth = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    stated = {
        **{"gaussian 25": "gaussian=25", "blur 2, noise 5": "blur=2,gaussian=5", "jpeg 30": "jpeg=30"},
        **{"salt and pepper 20 %": "salt_and_pepper=0.2", "x4": "resize=4"},
    }
    for name, damage in stated.items():
        damaged = DAMAGES[name](truth, 0)
        for method in methods.values():
            assert name in method.damages
            result = method.restore(damaged, {})
            assert result.shape == truth.shape
            if name != "x4":
                torch.testing.assert_close(result, damaged.picture, atol=1e-6, rtol=0)
        assert seen[-2:] == [((3, 64, 64), damage), ((3, 64, 64), "auto")]
    assert all("hole 40" not in method.damages for method in methods.values())


@pytest.mark.slow
def test_the_command_measures_a_restorer_that_is_named(folder: Path):
    Path("model").mkdir()
    save_restorer(random_network(strength=0.0), Path("model"))  # which changes nothing
    options = ("--damage", "jpeg 30", "-n", "1", "-o", "out", "--json")
    scores = json.loads(ldm("eval", "restore", "--data", "in", "--restorer", "model", *options).stdout)
    quality = {row["method"]: row["psnr"]["value"] for row in scores["rows"]}
    assert quality["restorer"] == quality["restorer (blind)"] == quality[INPUT]
    assert "restorer" not in ldm("eval", "restore", "--data", "in", "--restorer", "none", *options).stdout


def test_damages_are_eight_bits_and_do_not_depend_on_other_pictures():
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    for damage in DAMAGES.values():
        damaged = damage(picture, 7)
        torch.testing.assert_close(damaged.picture * 255, (damaged.picture * 255).round(), atol=1e-4, rtol=0)
        assert torch.equal(damage(picture, 7).picture, damaged.picture)
        if "noise" in damage.name or damage.sd:
            assert not torch.equal(damage(picture, 8).picture, damaged.picture)
    hole = DAMAGES["hole 40"](picture, 7)
    assert int(hole.mask.sum()) == 40 * 40
    assert torch.equal(hole.picture[:, ~hole.mask], (picture[:, ~hole.mask] * 255).round() / 255)


def test_every_setting_of_the_table_is_one_of_its_grid():
    for method in METHODS.values():
        found = BEST.get(method.name, {})
        assert set(found) == (set(method.damages) if method.grid else set())
        assert all(settings in list(method.candidates()) for settings in found.values())
        assert all(name in DAMAGES for name in method.damages)
    assert set(NEED_OPENCV) <= set(METHODS)


def test_tuning_finds_the_best_setting():
    picture = torch.full((3, 16, 16), 0.5)

    def constant(damaged, settings):
        return torch.full_like(damaged.picture, settings["value"])

    method = Method("constant", ("jpeg 10",), constant, {"value": (0.2, 0.45, 0.9)})
    assert best_settings({"constant": method}, [picture]) == {"constant": {"jpeg 10": {"value": 0.45}}}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--damage", "gausian 25"], "unknown damage 'gausian 25'; did you mean 'gaussian 25'"),
        (["-n", "0"], "n=0 must be at least 1"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(folder: Path, options: list[str], words: str):
    data = [] if "--data" in options else ["--data", "in"]
    result = ldm("eval", "restore", *data, *options)
    assert result.exit_code in (1, 2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert words in lines[0]


def test_a_hole_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a hole of 40 px does not fit a picture of 30 x 64 px"):
        DAMAGES["hole 40"](torch.zeros(3, 64, 30), 0)
