"""Classes from folders and from tables: every picture has its own, also in a training; what is no class is refused."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import CONFIGS
from picture_files import captions, opened, png, put
from PIL import Image
from typer.testing import CliRunner

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from ldm.cli import app
from ldm.data.check import check, check_all
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.class_labels import require_labels
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.io.folder.autoencoder import save_autoencoder
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.training.batches.sample_order import generator_for
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

CONFIG = CONFIGS / "digits" / "ldm_labels.yaml"
WORDS = ("n01440764", "n01443537", "n02084071")
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def grey(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (level,) * 3).save(file, "JPEG")
    return file.getvalue()


def imagenet(folder: Path, parts: tuple[str, ...] = ("train",)) -> Path:
    """Six pictures of every class in each part; a picture is as bright as its class says."""
    for part in parts:
        for label, word in enumerate(WORDS):
            put(folder / part / word, {f"{part}_{i}.JPEG": grey(100 * label) for i in range(6)})
    return folder


def labels(source) -> dict[str, int]:
    return {source.key(i): source.metadata(i)["label"] for i in range(len(source))}


def table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """One of the tables, written by others' code where there is some."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if name.endswith("jsonl"):
        return put(folder, {name: "".join(json.dumps(row) + "\n" for row in rows)})
    if name.endswith("csv"):
        import csv

        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        return put(folder, {name: text.getvalue()})
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    return folder


def test_a_label_is_the_place_of_the_folder_among_the_sorted_names(tmp_path: Path) -> None:
    source = opened(imagenet(tmp_path), captioned=False, labels="folders")
    assert len(source) == 18 and source.classes == WORDS
    assert all(label == WORDS.index(key.split("/")[0]) for key, label in labels(source).items())
    dataset = PictureDataset(source, 8)
    for i in range(len(dataset)):
        item = dataset.item(i, generator_for(0, i))
        assert abs((item["image"].mean() + 1) * 127.5 - 100 * item["label"]) < 2


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_both_parts_number_classes_alike(tmp_path: Path, share: float) -> None:
    parts = ("train", "val") if not share else ("train",)
    imagenet(tmp_path, parts)
    if not share:
        for file in (tmp_path / "val" / WORDS[0]).iterdir():
            file.unlink()
        (tmp_path / "val" / WORDS[0]).rmdir()
    split = {} if share else {"held_out_split": "val"}
    held_out = opened(tmp_path, "held_out", share, captioned=False, labels="folders", **split)
    assert len(held_out) and all(label == WORDS.index(key.split("/")[0]) for key, label in labels(held_out).items())


def test_folders_without_parts_and_with_folders_in_them(tmp_path: Path) -> None:
    put(tmp_path, {"cat/deep/er/1.png": png(1), "ant/2.png": png(2), ".hidden/3.png": png(3)})
    put(tmp_path, {"ant/metadata.csv": "file_name,label,text\n2.png,9,an ant\n"})
    (tmp_path / "bat").mkdir()
    assert labels(opened(tmp_path, captioned=False, labels="folders")) == {"ant/2.png": 0, "cat/deep/er/1.png": 2}
    assert opened(tmp_path).metadata(0)["label"] == 9


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_metadata_says_the_same(tmp_path: Path, name: str) -> None:
    rows = [
        {"file_name": "1.png", "text": 'one, "two"\nthree', "label": 3, "weight": 0.5},
        {"file_name": "sub/2.png", "text": "zwei é", "label": None, "weight": None},
    ]
    put(tmp_path, {"in/1.png": png(1), "in/sub/2.png": png(2), "in/3.png": png(3)})
    table(tmp_path / "in", name, rows)
    source = opened(tmp_path)
    assert captions(source) == {"in/1.png": [rows[0]["text"]], "in/sub/2.png": ["zwei é"]}
    assert PictureDataset(source, 8).weights.tolist() == [0.5, 1.0]
    assert PictureDataset(source, 8).words(0, generator_for(0, 0))["label"] == 3
    assert PictureDataset(source, 8).words(1, generator_for(0, 0))["label"] == -1
    alone = opened(tmp_path / "in")  # Parquet beside pictures is no table of pictures
    assert captions(alone) == {"1.png": [rows[0]["text"]], "sub/2.png": ["zwei é"]}
    assert not check(tmp_path) or {problem.what for problem in check(tmp_path)} == {"no captions"}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("field", "value", "wrong"),
    [
        ("label", "dog", r"label 'dog' is no whole number; write the number of its class"),
        ("label", 1.5, r"label 1.5 is no whole number"),
        ("weight", "often", r"weight 'often' is no finite number; write how often"),
        ("weight", -2.0, r"weight -2.0 is negative; write 0 to leave the picture out"),
        ("weight", float("inf"), r"weight inf is no finite number"),
    ],
)
def test_numbers_of_no_sense_are_refused_and_listed(
    tmp_path: Path, name: str, field: str, value: object, wrong: str
) -> None:
    put(tmp_path, {"1.png": png(1), "2.png": png(2)})
    rows: list[dict[str, Any]] = [{"file_name": f"{i}.png", "text": "x", "label": 1.0, "weight": 1.0} for i in (1, 2)]
    rows[1][field] = value
    if name.endswith("parquet") and isinstance(value, str):
        rows = [{key: row[key] for key in ("file_name", "text", field)} for row in rows]
        rows[0][field] = None
    table(tmp_path, name, rows)
    place = f"{tmp_path / name} {'row 2' if name.endswith('parquet') else 'line ' + ('2' if 'json' in name else '3')}"
    with pytest.raises(ValueError, match="^" + re.escape(place) + ": " + wrong) as raised:
        opened(tmp_path)
    assert "\n" not in str(raised.value) and not list(tmp_path.glob(".cache/pictures-*"))
    (problem,) = check(tmp_path)
    assert str(problem) == str(raised.value)
    listed = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert listed.exit_code == 1 and str(raised.value) in listed.stdout


def test_shards_name_the_json_of_a_wrong_number(tmp_path: Path) -> None:
    from picture_files import tar

    tar(tmp_path / "0.tar", {"a.png": png(1), "a.json": b'{"caption": "a", "weight": true, "label": [1]}'})
    with pytest.raises(ValueError, match=r"0.tar:a.json: label \[1\] is no whole number"):
        opened(tmp_path)
    assert sum("weight True is no finite number" in problem.what for problem in check(tmp_path)) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "file_name,text\na.png,one,two\n"}, r"metadata.csv line 2 has more cells than the header"),
        ({"metadata.csv": 'file_name,text\na.png,"one\n'}, r"metadata.csv line 2 is not CSV"),
        ({"metadata.csv": "picture,text\na.png,one\n"}, r"metadata.csv has the columns picture, text; name the one"),
        ({"metadata.parquet": b"PAR1 no"}, r"metadata.parquet is no whole Parquet file \(.*\); write or copy it again"),
        ({"metadata.csv": "file_name\n", "metadata.jsonl": ""}, r"metadata.jsonl lies beside metadata.csv; keep one"),
    ],
)
def test_broken_tables_are_one_line(tmp_path: Path, files: dict, message: str) -> None:
    put(tmp_path, {"a.png": png(1), "a.txt": "a", **files})
    with pytest.raises(ValueError, match=message) as raised:
        opened(tmp_path)
    assert "\n" not in str(raised.value) and not list(tmp_path.glob(".cache/index/*"))


def test_captions_are_read_once_and_follow_their_files(tmp_path: Path) -> None:
    """The rule: another size or time of change; what is open stays as it was."""
    put(tmp_path, {"a.png": png(1), "a.txt": "old"})
    first = opened(tmp_path)
    about = (tmp_path / "a.txt").stat()
    (tmp_path / "a.txt").write_text("new")
    os.utime(tmp_path / "a.txt", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert captions(opened(tmp_path)) == {"a.png": ["old"]}, "the file was not read again"
    os.utime(tmp_path / "a.txt", ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert captions(opened(tmp_path)) == {"a.png": ["new"]} and captions(first) == {"a.png": ["old"]}
    put(tmp_path, {"a.txt": "longer\nand two"})
    assert captions(opened(tmp_path)) == {"a.png": ["longer", "and two"]}
    put(tmp_path, {"b.png": png(2), "metadata.csv": "file_name,text\nb.png,bee\n"})
    assert captions(opened(tmp_path)) == {"a.png": ["longer", "and two"], "b.png": ["bee"]}
    put(tmp_path, {"metadata.csv": "file_name,text\nb.png,hive\n"})
    assert captions(opened(tmp_path))["b.png"] == ["hive"]
    (tmp_path / "a.txt").unlink()
    assert captions(opened(tmp_path)) == {"b.png": ["hive"]}


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": png(1), "a.txt": "a", ".cache": "a file where a folder would be"})
    assert captions(opened(tmp_path)) == {"a.png": ["a"]}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    network = KLAutoencoder(AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4, mid_attention=False))
    save_autoencoder(network, folder / "vae", 0.5)
    return folder


def run(root: Path, autoencoder: Path, source: str, *more: str):
    where = ["data.folder=''", f"data.sources=[{source}]", f"autoencoder={autoencoder}", f"output={root / 'run'}"]
    small = ["data.size=16", "unet.widths=[8,8]", "unet.num_heads=[1,1]", "unet.norm_groups=4", "diffusion.steps=2"]
    loop = ["loop.batch_size=4", "loop.samples=16", "loop.previews=2", "loop.log_every=4", "loop.validate_every=0"]
    return load_run(CONFIG, [*where, *small, *loop, *more])


def test_folders_of_classes_become_a_model_of_classes(tmp_path: Path, autoencoder: Path) -> None:
    data = imagenet(tmp_path / "imagenet")
    source = f"{{path: {data}, labels: folders}}"
    trainer = train(run(tmp_path, autoencoder, source, "unet.num_classes=4", "data.held_out=0.2"))
    losses = [json.loads(line)["unet/loss"] for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert trainer.samples_seen == 16 and all(np.isfinite(losses))
    model = LatentDiffusion.from_pretrained(tmp_path / "run" / "export")
    assert model("2", seed=0).images[0].size == (16, 16)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (
            3,
            "folders",
            r"unet.num_classes=3 does not fit the 3 class folders, n01440764 to n02084071, .*num_classes=4",
        ),
        (5, "folders", r"unet.num_classes=5 does not fit the 3 class folders.* use unet.num_classes=4"),
        (4, "metadata", r"n01440764/train_\d.JPEG has no label, which unet.num_classes=4 needs of every picture"),
        (4, "file", r"unknown labels 'file'; did you mean 'folders'"),
    ],
)
def test_classes_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path: Path, autoencoder: Path, classes: int, labels: str, message: str
) -> None:
    data = imagenet(tmp_path / "imagenet")
    with pytest.raises(ValueError, match=message) as raised:
        train(run(tmp_path, autoencoder, f"{{path: {data}, labels: {labels}}}", f"unet.num_classes={classes}"))
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()
    assert not list(data.glob(".cache/pictures-*"))


def test_a_label_beyond_the_classes_names_its_line(tmp_path: Path, autoencoder: Path) -> None:
    for label in (3, -1, -2):
        put(tmp_path / "in", {"a.png": png(1), "b.png": png(2)})
        put(tmp_path / "in", {"metadata.csv": f"file_name,label\na.png,2\nb.png,{label}\n"})
        wrong = r"b.png has no label" if label == -1 else rf"metadata.csv line 3: label {label} is not among the 3 cla"
        with pytest.raises(ValueError, match=wrong):
            train(run(tmp_path, autoencoder, f"{{path: {tmp_path / 'in'}}}", "unet.num_classes=4"))


def test_the_recipe_of_imagenet_takes_its_thousand_folders(tmp_path: Path) -> None:
    for i in range(1000):
        put(tmp_path / "train" / f"n{i:08}", {"x.JPEG": b"", ".listed": b""})
    recipe = load_run(CONFIG.parent.parent / "ldm-imagenet256-class.yaml")
    sources = [replace(source, path=str(tmp_path)) for source in recipe.data.all_sources]
    for split in ("train", "held_out"):
        source = open_source(sources, split, recipe.data.held_out, captioned=False)
        require_labels(source, recipe.unet.num_classes)
    (tmp_path / "train" / "n00000999" / "x.JPEG").unlink()
    (tmp_path / "train" / "n00000999" / ".listed").unlink()
    (tmp_path / "train" / "n00000999").rmdir()
    source = open_source(sources, "train", recipe.data.held_out, captioned=False)
    with pytest.raises(ValueError, match=r"unet.num_classes=1001 does not fit the 999 class folders.*num_classes=1000"):
        require_labels(source, recipe.unet.num_classes)


def test_folders_that_name_no_classes_are_refused(tmp_path: Path) -> None:
    put(imagenet(tmp_path / "a"), {"train/lost.png": png(1)})
    with pytest.raises(ValueError, match=r"lost.png lies in none of the 3 class folders, n01440764 to n02084071; move"):
        opened(tmp_path / "a", captioned=False, labels="folders")
    put(tmp_path / "flat", {"1.png": png(1)})
    with pytest.raises(ValueError, match=r"there are no folders in .*flat; put the pictures of each class into one"):
        opened(tmp_path / "flat", captioned=False, labels="folders")
    with pytest.raises(ValueError, match=r"labels='folders' is for folders of pictures, and x-0.tar is none"):
        opened("x-0.tar", labels="folders")
    put(imagenet(tmp_path / "b"), {"train/new/1.png": png(1)})
    put(imagenet(tmp_path / "c"), {})
    both = [SourceConfig(str(tmp_path / name), labels="folders") for name in ("c", "b")]
    with pytest.raises(ValueError, match=r"c and .*b have other class folders, new is in one of them only; give both"):
        open_source(both, captioned=False)
    (tmp_path / "c" / "train" / "new").mkdir()
    assert open_source(both, captioned=False, cache=tmp_path / "cache").classes == (*WORDS, "new")


def test_check_lists_pictures_in_no_class_folder_and_reads_no_labels_of_tables(tmp_path: Path) -> None:
    data = put(tmp_path / "data", {"train/ant/1.png": png(1), "train/bee/2.png": png(2), "val/ant/3.png": png(3)})
    put(data, {"train/ant/metadata.csv": "file_name,label,text\n1.png,dog,an ant\n", "test/4.png": b"not read"})
    source = SourceConfig(str(data), labels="folders", held_out_split="val")
    assert {problem.what for problem in check(source)} == {"no captions"}  # of bee/2.png: training reads no `label`
    put(data, {"train/lost.png": png(5), "val/new/6.png": png(6)})
    strays = {problem.place: problem.what for problem in check(source) if problem.what != "no captions"}
    assert strays.keys() == {str(data / "train" / "lost.png"), str(data / "val" / "new" / "6.png")}
    for split in ("train", "held_out"):
        with pytest.raises(ValueError, match="|".join(re.escape(f"{place} {what}") for place, what in strays.items())):
            open_source([source], split, captioned=False)
    sources = f"[{{path: {data}, labels: folders}}]"
    put(tmp_path, {"run.yaml": f"task: ldm\noutput: x\ndata:\n  sources: {sources}\n"})
    listed = CliRunner().invoke(app, ["data", "check", str(tmp_path / "run.yaml")])
    assert listed.exit_code == 1 and "lost.png: lies in none of the 2 class folders, ant to bee; move" in listed.stdout


def test_check_refuses_the_class_folders_that_a_training_refuses(tmp_path: Path) -> None:
    put(tmp_path, {"flat/1.png": png(1), "a/ant/1.png": png(1), "b/bee/1.png": png(1)})
    one, other, flat = (SourceConfig(str(tmp_path / name), labels="folders") for name in ("a", "b", "flat"))
    with pytest.raises(ValueError, match=r"there are no folders in .*flat; put the pictures of each class into one"):
        check(flat)
    with pytest.raises(ValueError, match=r"have other class folders, ant is in one of them only"):
        check_all([one, other])
    assert check_all([one]) == []
