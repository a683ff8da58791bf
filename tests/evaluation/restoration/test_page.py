"""The scores of restoration as a summary, a plot and the tables of the docs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from docs.restoration_page import OF_EACH_KIND, PAGE, README, write
from ldm.cli import app
from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.restoration.bench import RestorationScores
from ldm.evaluation.restoration.damages import DAMAGES
from ldm.evaluation.restoration.plot import can_plot, write_plot
from ldm.evaluation.restoration.row import Row
from ldm.evaluation.restoration.summary import summaries, summary_markdown

ABOUT = {"data": "icons", "part": "held_out", "seed": 3, "tuned_on": "others", "processor": "a CPU", "threads": 1}
NLM = {"input": 20.0, "NLM": 29.0, "NLM, de-biased": 33.0, "BM3D": 29.5, "BM3D, de-biased": 32.0}


def scores(**values: dict[str, float]) -> RestorationScores:
    """Of damages by name with the PSNR of each method."""
    rows = tuple(
        Row(damage, method, Estimate(psnr, 0.1, 9), Estimate(0.9, 0.01, 9), Estimate(1.0, 0.1, 9), None, {})
        for damage, methods in values.items()
        for method, psnr in methods.items()
    )
    return RestorationScores(rows, 9, {**ABOUT, "versions": {"torch": "2"}}, ("Telea: why",), "out")


def test_the_best_filter_is_the_best_with_and_without_the_bias_taken_off():
    restored = {"restorer": 33.5, "restorer (blind)": 32.75, "autoencoder ceiling": 40.0, "posterior mean": 41.0}
    noise, jpeg = summaries(scores(**{"gaussian 25": NLM | restored, "jpeg 10": {"input": 25.0, "BM3D": 26.0}}).rows)
    assert noise.filters == {"BM3D": 29.5, "NLM, de-biased": 33.0}  # neither restorer nor ceiling is a filter
    assert noise.best_filter == ("NLM, de-biased", 33.0) and noise.gain == 0.5
    assert (noise.input, noise.blind, noise.ceiling, noise.posterior) == (20.0, 32.75, 40.0, 41.0)
    assert jpeg.best_filter == ("BM3D", 26.0) and jpeg.gain is None and jpeg.ceiling is None
    lines = summary_markdown([noise, jpeg], ["jpeg 10", "x4"]).splitlines()
    assert lines[2:] == ["| jpeg 10 | 25.00 | 26.00 (BM3D) | – | – | – |"]


def test_scores_are_read_back_from_their_json():
    written = scores(**{"gaussian 25": NLM})
    read = RestorationScores.from_dict(json.loads(json.dumps(written.to_dict())))
    assert read == written and read.to_table() == written.to_table()


@pytest.mark.skipif(not can_plot(), reason="needs ldm[bench]")
def test_both_pages_and_the_plot_are_renewed_and_nothing_else(tmp_path: Path):
    page, readme, picture = tmp_path / "page.md", tmp_path / "README.md", tmp_path / "plot.png"
    page.write_text(PAGE.read_text())
    readme.write_text(README.read_text())
    measured = scores(**{name: NLM | {"restorer": 36.0} for name in DAMAGES})
    write(measured, page, readme, picture)
    text = page.read_text()
    assert "9 held-out pictures of icons, 128 px on white, 8 bits" in text and "Left out: Telea." in text
    assert measured.to_markdown() in text and summary_markdown(summaries(measured.rows)) in text
    shown = [line.split(" | ")[0].strip("| ") for line in readme.read_text().splitlines() if "| +3.00 |" in line]
    assert tuple(shown) == OF_EACH_KIND
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 800 and picture.stat().st_size < 60_000
    before = page.read_bytes(), readme.read_bytes()
    write(measured, page, readme, picture)
    assert (page.read_bytes(), readme.read_bytes()) == before
    page.write_text("no place")
    with pytest.raises(ValueError, match=r"page\.md has no place <!-- scores: source -->"):
        write(measured, page, readme, picture)
    assert readme.read_bytes() == before[1]


@pytest.mark.skipif(not can_plot(), reason="needs ldm[bench]")
@pytest.mark.parametrize("damages", [1, len(DAMAGES)])
def test_no_two_words_of_the_plot_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damages: int):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **b: (drawn.append(self), save(self, *a, **b)))
    every = NLM | {"restorer": 33.5, "restorer (blind)": 31.0, "posterior mean": 31.0, "autoencoder ceiling": 24.0}
    measured = scores(**dict.fromkeys(list(DAMAGES)[:damages], every))
    write_plot(tmp_path / "plot.png", summaries(measured.rows), measured.source)
    (figure,) = drawn
    texts = [*figure.texts, *(text for axis in figure.axes for text in axis.texts), *figure.legends[0].texts]
    for axis in figure.axes:
        low, high = axis.get_xlim()
        texts += [
            axis.xaxis.label,
            *(label for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high),
        ]
    texts += figure.axes[0].get_yticklabels()
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > 2 * damages + 10
    for number, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1), box
        apart = [other for other in boxes[number + 1 :] if box.overlaps(other)]
        assert not apart, (box, apart)


def test_without_matplotlib_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ldm.evaluation.restoration.plot.find_spec", lambda name: None)
    picture = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    Image.fromarray(picture).save(tmp_path / "one.png")
    options = ("--data", str(tmp_path), "-n", "1", "--damage", "x2", "--restorer", "none", "-o", str(tmp_path / "out"))
    result = CliRunner().invoke(app, ["eval", "restore", *options])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("no plot")]
    assert lines == ["no plot: matplotlib is not installed; pip install 'ldm[bench]'"]
    assert not (tmp_path / "out" / "plot.png").exists() and (tmp_path / "out" / "table.md").exists()
