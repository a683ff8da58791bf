"""The benchmark of reconstruction measures what its table says."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.reconstruction import DAMAGES, hole, rows


def test_the_table_has_a_row_for_each_damage_and_block_means_are_used(tiny_folder: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[0:1:96j, 0:1:96j]
    Image.fromarray((np.stack([x, y, 1 - x], -1) * 200 + 20).astype(np.uint8)).save(tmp_path / "one.png")
    given = {"data": str(tmp_path), "model": str(tiny_folder), "n": 1, "samples": 2, "steps": 2, "method": "daps"}
    lines = list(rows(argparse.Namespace(**given, damage=["x4", "blur 2, noise 5"])))
    assert len(lines) == 4 and [line.split(" | ")[0] for line in lines[2:]] == ["| x4", "| blur 2, noise 5"]
    ceiling, _, sample, mean = (float(value) for value in lines[2].strip("| ").split(" | ")[1:])
    assert sample > ceiling + 5 and mean >= sample - 0.5


@pytest.mark.parametrize("number", range(5))
def test_a_hole_lies_within(number: int) -> None:
    mask = hole(64, number)
    assert mask.sum() == 1600 and torch.equal(mask, hole(64, number)) and "hole 40" in DAMAGES
