"""Previews: each picture with its caption and the real one beside, prompts of one's own, and a page over time."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from regression import QUICK, Points, Regression, trainer_of
from torch import Tensor, nn

from ldm.training.reports.preview_sheet import page, picture_grid, sheet


class CaptionedPoints(Points):
    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {**super().item(index, generator), "caption": f"point {index}"}


class Painting(Regression):
    """Black pictures, red real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.captions: list[list[str]] = []

    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        self.captions.append(list(batch["caption"]))
        black = torch.zeros(len(batch["x"]), 3, 24, 24)
        return {"pictures": black, "real": black + torch.tensor([1.0, 0, 0]).view(3, 1, 1)}


def test_without_captions_and_real_pictures_it_is_the_plain_grid() -> None:
    tiles = torch.rand(5, 3, 8, 8)
    assert np.array_equal(np.asarray(sheet(tiles)), picture_grid(tiles).numpy())


def test_captions_stand_below_and_real_pictures_beside() -> None:
    captions = ["one", "two", "three", "a caption too long for its picture — ü"]
    made = sheet(torch.zeros(4, 3, 24, 24), captions, torch.ones(4, 3, 24, 24))
    pixels = np.asarray(made)
    assert pixels.shape == (2 * (24 + 14), 2 * 48, 3)
    assert (pixels[:24, :24] == 0).all() and (pixels[:24, 24:48] == 255).all()
    for row in (24, 62):
        for column in (0, 48):
            line = pixels[row : row + 14, column : column + 48]
            assert 0 < (line < 128).sum() < line.size / 2  # some letters on white


def test_a_training_shows_prompts_of_its_own_and_a_page_of_all_sheets(tmp_path: Path) -> None:
    painting, points = Painting(), CaptionedPoints()
    prompts = ("a samurai", "a <wizard>")
    loop = replace(QUICK, preview_every=32, previews=4, preview_prompts=prompts)
    trainer_of(painting, points, loop, tmp_path).fit()
    assert len(painting.captions) == 3  # twice on the way, once at the end
    assert all(shown[:2] == [*prompts] and shown[2].startswith("point") for shown in painting.captions)
    files = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert files == ["index.html", "pictures-000000032.png", "pictures-000000064.png"]
    first = np.asarray(Image.open(tmp_path / "previews" / files[1]))
    assert (first[:24, 24:48] == 255).all()  # nobody has a picture of a samurai
    assert (first[38:62, 24:48] == (255, 0, 0)).all()
    shown = (tmp_path / "previews" / "index.html").read_text()
    assert re.findall(r'src="([^"]+)"', shown) == [files[2], files[1]] and "64 samples" in shown


def test_a_page_of_several_kinds_has_a_column_for_each(tmp_path: Path) -> None:
    for name in ("a-000000001.png", "b-000000001.png", "b-000000002.png"):
        (tmp_path / name).touch()
    rows = re.findall(r"<tr>(.*?)</tr>", page(tmp_path))
    assert [row.count("<td>") for row in rows] == [2, 2] and "2 samples" in rows[0]
