"""The benchmark behind docs/loading.md measures what it says, on a small model."""

from pathlib import Path

import pytest
import torch

from benchmarks.loading import LOADERS, Opened, measure, open_once, table, write_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("loader", LOADERS)
def test_both_open_the_folder_and_read_it(tiny_folder: Path, loader: str) -> None:
    opened = open_once(loader, tiny_folder, torch.float16)
    assert 0 < opened.load <= opened.read and opened.peak >= 0


def test_every_round_opens_with_both_in_processes_of_their_own(tiny_folder: Path) -> None:
    found = measure(tiny_folder, 1, "float32")
    assert {loader: len(opened) for loader, opened in found.items()} == {"ldm": 1, "diffusers": 1}


def test_the_table_has_medians_and_their_ratios() -> None:
    ours, theirs = [Opened(1, 2, 3e9), Opened(9, 9, 9e9), Opened(1, 2, 3e9)], [Opened(2, 6, 3e9)]
    lines = table({"sd1": {"ldm": ours, "diffusers": theirs}}, {"sd1": 3_000_000_000}).splitlines()
    assert lines[2] == "| sd1, 3.00 GB | ldm | 1.00 | 2.00 | 3.00 | 100% |"
    assert lines[4] == "| | ratio | 2.00 | 3.00 | 1.00 | |"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_is_written_is_a_model_folder_of_the_published_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    from ldm.families.stable_diffusion import FAMILIES
    from ldm.io.disk.files import read_json
    from ldm.io.folder.load import _tower_classes
    from ldm.io.folder.pipelines import KNOWN

    sizes: list[int] = []
    monkeypatch.setattr(
        "benchmarks.loading.write_safetensors",
        lambda path, weights, metadata: sizes.append(sum(weight.count for weight in weights.values())),
    )
    write_model(FAMILIES[family], tmp_path)
    index = read_json(tmp_path / "model_index.json")
    assert index["_class_name"] in KNOWN and next(iter(_tower_classes(index, tmp_path))) == "text_encoder"
    expected = {"sd1": [859_520_964, 83_653_863, 123_060_480], "sdxl": [2_567_463_684, 83_653_863, 123_060_480]}
    assert sizes == [*expected[family], *([694_659_840] if family == "sdxl" else [])]
