"""`ldm doctor` tells what is there, and its exit code says whether something is broken."""

import json
import shutil
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ldm.cli import app
from ldm.engine.names import ENGINES
from ldm.io import shipped

doctor = import_module("ldm.cli.doctor")  # the package's attribute of this name is the command

ALWAYS = {  # of every machine
    "ldm",
    "python",
    "torch",
    "threads",
    "cpu",
    "numbers",
    "attention",
    "engine",
    "package",
    "optional",
    "cache",
    "output",
}


def examine(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *options])
    return result.exit_code, result.stdout


def findings(text: str) -> dict[str, list[dict]]:
    by_name: dict[str, list[dict]] = {}
    for finding in json.loads(text):
        by_name.setdefault(finding["name"], []).append(finding)
    return by_name


def test_a_sound_installation_has_no_fault_and_draws_a_picture() -> None:
    code, text = examine("--json")
    found = findings(text)
    assert code == 0 and found.keys() >= ALWAYS | {"model", "picture"}
    assert {each["state"] for group in found.values() for each in group} <= {"ok", "warning"}
    assert "in 2 steps" in found["picture"][0]["found"]


def test_every_attention_backend_is_listed_with_the_reason_where_it_cannot_run() -> None:
    lines = [finding.found for finding in doctor._attention()]
    assert any(line == "--attention sdpa runs here" for line in lines)
    assert sum("xformers" in line for line in lines) == 1
    assert all("runs here" in line or "cannot run: " in line for line in lines)


def test_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_picture", lambda: iter(()))
    code, text = examine()
    assert code == 0
    for line in text.splitlines():
        assert line.split()[0] in ("ok", "warning") and len(line.split()) > 2


def test_a_changed_weight_file_of_the_shipped_model_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(Path(str(files("ldm"))) / "models", tmp_path / "models")
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path)
    monkeypatch.setattr(doctor, "_picture", lambda: iter(()))
    assert shipped.changed_files("emoji") == []
    with (tmp_path / "models" / "emoji" / "vae" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    (tmp_path / "models" / "emoji" / "ldm.json").unlink()
    assert shipped.changed_files("emoji") == ["emoji/ldm.json", "emoji/vae/diffusion_pytorch_model.safetensors"]
    code, text = examine("--json")
    (model,) = findings(text)["model"]
    assert code == 1 and model["state"] == "fault" and "vae/diffusion" in model["found"] and model["mend"]


def test_a_check_that_breaks_is_a_fault_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "_picture", broken)
    code, text = examine("--json")
    (picture,) = findings(text)["picture"]
    assert code == 1 and picture["state"] == "fault" and picture["found"] == "RuntimeError: two lines"


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    cache = next(finding for finding in doctor._folders() if finding.name == "cache")
    assert cache.state == "warning" and "XDG_CACHE_HOME" in cache.mend


def test_every_engine_is_listed_and_one_is_the_default() -> None:
    findings = [finding.found for finding in doctor._engine()]
    assert len(findings) == len(ENGINES) - 1
    assert "--engine eager runs here" in " ".join(findings)
    assert sum(found.endswith("and is the default") for found in findings) == 1
