"""Long work reports its progress to the caller; only the command line and a training's reports draw it."""

import ast
from pathlib import Path

import pytest
from checkout import ROOT

from ldm.cli.progress import Bars
from ldm.progress import silent, track


def test_each_item_is_reported_when_it_is_done() -> None:
    reports: list[tuple[str, int, int]] = []
    for item in track(iter("ab"), "letters", lambda *report: reports.append(report), total=2):
        reports.append((item, -1, -1))
    assert reports == [("letters", 0, 2), ("a", -1, -1), ("letters", 1, 2), ("b", -1, -1), ("letters", 2, 2)]
    assert list(track([1, 2, 3], "numbers", silent)) == [1, 2, 3]


def test_bars_appear_with_the_work_and_end_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(stderr=True) as bars:
        assert not capsys.readouterr().err
        for _ in track(range(3), "outer", bars):
            list(track(range(2), "inner", bars))
        assert bars._bars is None, "a training could not draw its own bar now"
        list(track([], "nothing", bars))
        bars("unfinished", 1, 2)
    assert bars._bars is None
    shown = capsys.readouterr()
    assert "outer" in shown.err and "inner" in shown.err and not shown.out


def test_rich_is_imported_by_the_faces_alone() -> None:
    drawing = set()
    for path in (path for package in ("ldm", "autoencoder", "conditioning") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "rich" for name in names):
                drawing.add(path.relative_to(ROOT))
    faces = (Path("ldm/cli"), Path("ldm/training/reports"))
    assert drawing and all(path.parent in faces for path in drawing), drawing
