"""The API reference is made from the docstrings, of every module."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

pytestmark = pytest.mark.slow


def test_every_module_has_a_page_and_the_pipeline_its_methods(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "ldm" / "pipeline" / "pipeline.html").read_text(encoding="utf-8")
    for name in ("from_pretrained", "steps", "encode", "decode", "load_lora"):
        assert f'id="LatentDiffusion.{name}"' in page
    public = [
        path.relative_to(ROOT).with_suffix("")
        for package in ("ldm", "autoencoder", "conditioning")
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__")
    ]
    assert not [path for path in public if not (tmp_path / path).with_suffix(".html").is_file()]
