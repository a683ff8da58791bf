"""The judge from end to end on painted shapes: it learns, is kept, goes on after an interrupt, judges a model."""

import dataclasses
import io
import json
import os
import signal
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.cli import app
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.evaluation.generated import Drawing, drawing_key
from ldm.evaluation.judge import train as judge_train
from ldm.evaluation.judge.augmentation import AugmentationConfig, augment
from ldm.evaluation.judge.classifier import Judge, JudgeNetwork, Vocabulary, look
from ldm.evaluation.judge.evaluate import evaluate
from ldm.evaluation.judge.expected import Expected
from ldm.evaluation.judge.train import JudgeConfig, JudgeDataset, find_twins, load_splits, trained_judge
from ldm.evaluation.metrics.fidelity import measure_fidelity
from ldm.evaluation.resizing import resize
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.training.config import LoopConfig
from ldm.training.loop import Trainer

COLOURS = {"dark": ("black", "navy"), "bright": ("orange", "gold")}
BACKGROUNDS = {"white": "white", "blue": "blue"}
CONFIG = JudgeConfig(
    size=32,
    widths=(16, 32, 32),
    validation_share=0.1,
    loop=LoopConfig(
        samples=5_120,
        precision="fp32",  # the same on every processor, but for rounding
        batch_size=32,
        learning_rate=1e-2,
        lr_shape="cosine",
        warmup=10,
        ema_half_life=100,
        log_every=320,
        preview_every=0,
        trackers=(),
    ),
)


def _paint(concept: str, style: str, count: int, background: str, random: Random) -> bytes:
    picture = Image.new("RGB", (64, 64), BACKGROUNDS[background])
    draw = ImageDraw.Draw(picture)
    half = 22 if count == 1 else 11
    for centre in [(32, 32)] if count == 1 else [(18, 32), (46, 32)]:
        x, y = (value + random.randint(-2, 2) for value in centre)
        box, colour = (x - half, y - half, x + half, y + half), COLOURS[style][random.randint(0, 1)]
        if concept == "disc":
            draw.ellipse(box, fill=colour)
        elif concept == "ring":
            draw.ellipse(box, outline=colour, width=4)
        else:
            draw.rectangle(box, fill=colour)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _sample(number: int, concept: str, style: str, kind: str = "icon", background: str = "white") -> Sample:
    count = 2 if kind == "count" else 1
    meta = {"concept": concept, "style": style, "kind": kind, "captions": [f"a {concept}, {style} style", concept]}
    if kind != "icon":
        meta |= {"objects": [concept], "count": count, "background": background}
    return Sample(f"{number:06d}", _paint(concept, style, count, background, Random(number)), meta)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs, rings and squares in two styles; bright rings and two squares are held out."""
    folder = tmp_path_factory.mktemp("shapes")
    train, held_out = [], []
    for number in range(96):
        concept, style = ("disc", "ring", "square")[number % 3], ("dark", "bright")[number // 3 % 2]
        (held_out if (concept, style) == ("ring", "bright") else train).append(_sample(number, concept, style))
    for number in range(100, 136):
        concept = ("disc", "ring", "square")[number % 3]
        kind, background = (("count", "white"), ("background", "blue"))[number // 3 % 2]
        unseen = (concept, kind) == ("square", "count")
        (held_out if unseen else train).append(_sample(number, concept, "dark", kind, background))
    write_shard(folder / "train" / "000000.tar", train)
    write_shard(folder / "held_out" / "000000.tar", held_out)
    styles = [{"key": key, "phrase": f"{key} style", "picture": f"{key} icon"} for key in COLOURS]
    (folder / "manifest.json").write_text(json.dumps({"size": 64, "shards": ["shapes"], "styles": styles}))
    return folder


@pytest.fixture(scope="session")
def model(tiny_folder: Path) -> LatentDiffusion:
    """A tiny random model with an upscaler: 32 px pictures, 64 px with it."""
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")
    upscaler = Upscaler(UpscalerConfig(width=4, blocks=1, factor=2)).eval().requires_grad_(False)
    return LatentDiffusion(dataclasses.replace(model.parts, upscaler=upscaler), "tiny")


@pytest.mark.slow
def test_the_judge_knows_real_pictures(shapes: Path):
    judge, quality = trained_judge(shapes, CONFIG)
    assert judge.vocabulary.heads == ("concept", "style", "count", "background")
    assert quality.known.concept_top1.share > 0.85  # five seeds on three kinds of arithmetic gave 0.93 to 1
    assert quality.known.style.share > 0.9
    assert quality.known.style_of_thing.share > 0.9
    assert quality.new.pictures > 0


def test_the_judge_is_trained_once(shapes: Path):
    first, quality = trained_judge(shapes, CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (shapes / ".cache").glob("judge-*/*")}
    again, same_quality = trained_judge(shapes, CONFIG)
    assert kept == {path: path.stat().st_mtime_ns for path in (shapes / ".cache").glob("judge-*/*")}
    assert quality == same_quality
    pictures, expected = torch.rand(3, 3, 32, 32) * 2 - 1, [Expected(("disc",))] * 3
    assert first.classify(pictures, expected) == again.classify(pictures, expected)


def test_an_interrupted_training_goes_on(shapes: Path, monkeypatch: pytest.MonkeyPatch):
    loop = dataclasses.replace(CONFIG.loop, samples=320, seed=1)
    config = dataclasses.replace(CONFIG, loop=loop)
    step, seen = Trainer._step, []

    def step_and_stop(trainer, micro_batches):
        seen.append(trainer.samples_seen)
        if trainer.samples_seen == 128:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, micro_batches)

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    with pytest.raises(KeyboardInterrupt, match="160 of 320"):
        trained_judge(shapes, config)
    trained_judge(shapes, config)
    assert seen == list(range(0, 320, 32))


def test_validation_pictures_and_only_they_are_never_drawn(shapes: Path):
    splits = load_splits(shapes, 64)
    dataset = JudgeDataset(
        splits, Vocabulary.of(split.metadata(i) for split in splits for i in range(len(split))), CONFIG
    )
    assert dataset.validation == [i for i in range(len(dataset)) if dataset.weights[i] == 0]
    assert max(dataset.validation) < len(splits[0])


def test_scenes_get_their_share_and_cells_count_alike(shapes: Path):
    splits = load_splits(shapes, 64)
    vocabulary = Vocabulary.of(split.metadata(i) for split in splits for i in range(len(split)))
    dataset = JudgeDataset(splits, vocabulary, dataclasses.replace(CONFIG, validation_share=0.0))
    scenes = [i for i in range(len(dataset)) if "objects" in dataset.metadata(i)]
    assert dataset.weights[scenes].sum() / dataset.weights.sum() == pytest.approx(CONFIG.scene_share)
    cells: dict[tuple, float] = {}
    for i in set(range(len(dataset))) - set(scenes):
        cell = dataset.metadata(i)["concept"], dataset.metadata(i)["style"]
        cells[cell] = cells.get(cell, 0) + dataset.weights[i]
    assert list(cells.values()) == pytest.approx([1.0] * len(cells))


def test_twins_are_found_by_their_pixels(tmp_path: Path):
    square = _sample(0, "square", "dark")
    box = Sample("000001", square.picture, {**square.meta, "concept": "box"})
    other_style = Sample("000002", square.picture, {**square.meta, "concept": "crate", "style": "bright"})
    write_shard(tmp_path / "train" / "000000.tar", [square, box, other_style, _sample(3, "disc", "dark")])
    assert find_twins(load_splits(tmp_path, 32)) == {("box", "dark"): ("square",), ("square", "dark"): ("box",)}


def test_augmentation_of_a_picture_ignores_its_neighbours():
    pictures = torch.rand(4, 3, 32, 32) * 2 - 1
    together = augment(pictures, [torch.Generator().manual_seed(i) for i in range(4)], AugmentationConfig())
    alone = augment(pictures[2:3], [torch.Generator().manual_seed(2)], AugmentationConfig())
    torch.testing.assert_close(together[2:3], alone)
    assert (together - pictures).abs().mean() > 0.02


def test_augmentation_by_nothing_is_the_picture():
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    nothing = AugmentationConfig(**{field.name: 0.0 for field in dataclasses.fields(AugmentationConfig)})
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    torch.testing.assert_close(augment(pictures, generators, nothing), pictures, atol=1e-5, rtol=0)


def test_a_window_is_the_place_it_is_named_after():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, 3, 8, 8)
    for (row, column), oracle in {
        (1, 0): picture[:, :, 2:6, :4],
        (1, 2): picture[:, :, 2:6, 4:],
        (0, 1): picture[:, :, :4, 2:6],
        (2, 1): picture[:, :, 4:, 2:6],
    }.items():
        assert torch.equal(look(picture, (row, column)), oracle)
    torch.testing.assert_close(look(picture, None), torch.nn.functional.avg_pool2d(picture, 2))


def test_things_of_a_pair_are_named_by_their_own_halves():
    """A network that tells red from blue by the colour of what it is shown must find each colour in its half."""
    vocabulary = Vocabulary(("blue", "red"), (), (), ())
    network = JudgeNetwork((8, 8), vocabulary)
    network.beliefs = lambda x, concept: {"concept": torch.stack([x[:, 2].mean((1, 2)), x[:, 0].mean((1, 2))], 1)}
    judge = Judge(network, vocabulary, 32, (8, 8), {})
    picture = -torch.ones(1, 3, 64, 64)
    picture[:, 0, :, :32] = picture[:, 2, :, 32:] = 1
    found = judge.classify(picture, [Expected(("red", "blue"), arrangement="beside")])[0]
    assert [names[0] for names in found.concepts] == ["red", "blue"]
    turned = judge.classify(picture.transpose(2, 3), [Expected(("red", "blue"), arrangement="above")])[0]
    assert [names[0] for names in turned.concepts] == ["red", "blue"]


def test_given_concepts_change_style_of_thing_alone():
    vocabulary = Vocabulary(("a", "b"), ("x", "y"), (), ())
    network = JudgeNetwork((8, 8), vocabulary).eval()
    torch.nn.init.normal_(network.drawings.weight)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    one, other, nothing = (network(pictures, torch.tensor([k, k])) for k in (0, 1, -1))
    assert not torch.allclose(one["style_of_thing"], other["style_of_thing"])
    assert torch.equal(nothing["style_of_thing"], nothing["style"])
    for head in ("concept", "style"):
        assert torch.equal(one[head], other[head])


def test_style_is_style_of_thing_of_every_concept_by_its_share():
    vocabulary = Vocabulary(("a", "b", "c"), ("x", "y"), (), ())
    network = JudgeNetwork((8, 8), vocabulary).eval()
    torch.nn.init.normal_(network.drawings.weight)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        given = [network(pictures, torch.tensor([k, k])) for k in range(3)]
        found = network.beliefs(pictures, torch.tensor([-1, -1]))
    oracle = sum(given[k]["concept"].softmax(1)[:, k, None] * given[k]["style_of_thing"].softmax(1) for k in range(3))
    torch.testing.assert_close(found["style"], oracle)
    torch.testing.assert_close(found["concept"], given[0]["concept"].softmax(1))


def test_items_are_views_with_the_names_of_what_they_show(tmp_path: Path):
    """A pair of a black square left and an orange disc right: halves name their thing, the whole names none."""
    left, right = (
        Image.open(io.BytesIO(_paint(concept, style, 1, "white", Random(0)))).resize((32, 32))
        for concept, style in (("square", "dark"), ("disc", "bright"))
    )
    canvas, encoded = Image.new("RGB", (64, 64), "white"), io.BytesIO()
    canvas.paste(left, (0, 16))
    canvas.paste(right, (32, 16))
    canvas.save(encoded, "PNG")
    meta = {"concept": "square+disc", "objects": ["square", "disc"], "kind": "pair", "count": 2, "captions": ["pair"]}
    write_shard(tmp_path / "train" / "000000.tar", [Sample("000000", encoded.getvalue(), meta)])
    splits = load_splits(tmp_path, 64)
    dataset = JudgeDataset(splits, Vocabulary(("disc", "square"), (), ("1", "2"), ("white",)), CONFIG)
    seen = set()
    for seed in range(20):
        item = dataset.item(0, torch.Generator().manual_seed(seed))
        red = float(item["image"][0].mean() - item["image"][2].mean())  # orange has much red and no blue
        seen.add((int(item["concept"]), int(item["count"])))
        assert item["image"].shape == (3, 32, 32)
        assert {0: red > 0.3, 1: abs(red) < 0.3, -1: red > 0}[int(item["concept"])]
    assert seen == {(0, -1), (1, -1), (-1, 1)}


def test_resizing_by_a_whole_factor_averages():
    pictures = torch.rand(1, 3, 8, 8)
    oracle = pictures.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(resize(pictures, 4), oracle)


def test_a_saved_judge_says_the_same(tmp_path: Path):
    vocabulary = Vocabulary(("a", "b", "c"), ("x", "y"), (), ("white",))
    judge = Judge(JudgeNetwork((8, 8), vocabulary), vocabulary, 32, (8, 8), {("a", "x"): ("b", "c")})
    judge.save(tmp_path, {"by": "me"})
    again, notes = Judge.load(tmp_path)
    pictures, expected = torch.rand(2, 3, 64, 64) * 2 - 1, [Expected(("a",)), Expected(("a", "b"), arrangement="above")]
    assert again.classify(pictures, expected) == judge.classify(pictures, expected)
    assert (again.twins, again.vocabulary, notes) == (judge.twins, vocabulary, {"by": "me"})
    assert again.classify(pictures, expected)[0].count == ()


@pytest.mark.slow
def test_evaluate_measures_every_part(shapes: Path, model: LatentDiffusion, tmp_path: Path):
    scores = evaluate(model, shapes, n=6, steps=2, folder=tmp_path, judge_config=CONFIG)
    assert list(scores.parts) == ["seen", "held_out", "composed_seen", "composed_held_out"]
    assert scores.parts["held_out"].generated.pictures == 1
    assert scores.parts["seen"].real.concept_top1.n == 5
    assert scores.parts["composed_seen"].generated.count.n + scores.parts["composed_seen"].generated.background.n == 6
    assert json.loads((tmp_path / "scores.json").read_text()) == scores.to_dict()
    assert (tmp_path / "seen.png").is_file()
    assert (scores.distance.pictures, scores.distance.reference) == (2, 3)
    assert scores.distance.generated > scores.distance.real > 0
    assert scores.fidelity.autoencoder.keys() == {"32", "64"}


@pytest.mark.slow
def test_a_quick_reading_leaves_out_what_needs_many_pictures(shapes: Path, model: LatentDiffusion, tmp_path: Path):
    scores = evaluate(model, shapes, n=2, steps=1, folder=tmp_path, judge_config=CONFIG, quick=True)
    assert scores.quick and scores.distance is None
    assert all(part.generated.pictures <= 2 for part in scores.parts.values())
    for part in scores.parts.values():
        assert part.nearest is not None and part.sharpness is not None
        assert part.sharpness.size == 64
        assert part.nearest.autoencoded.closeness.n == part.nearest.real.closeness.n
        assert part.autoencoded.pictures == part.real.pictures
        assert part.sharpness.edge.n == part.generated.pictures
    real = scores.parts["seen"].nearest.real
    assert real.closeness.value > scores.parts["seen"].nearest.generated.closeness.value
    assert scores.drawings == 96
    assert {"drawing", "reading seen", "PSNR"} <= scores.seconds.keys()
    assert {"judge", "features of drawings"} <= scores.prepared.keys()
    table = scores.to_table()
    assert "Quick" in table and "Frechet distance of" not in table


@pytest.mark.slow
def test_evaluate_goes_on_where_it_was(shapes: Path, model: LatentDiffusion, tmp_path: Path):
    def run(batch_size: int):
        return evaluate(model, shapes, n=4, steps=2, folder=tmp_path, batch_size=batch_size, judge_config=CONFIG)

    first = run(4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "seen").iterdir()}
    (tmp_path / "seen" / "00002.png").unlink()
    other = (tmp_path / "seen" / "00001.png").stat().st_mtime_ns
    again = run(1)
    assert (tmp_path / "seen" / "00001.png").stat().st_mtime_ns == other
    old, new = (
        Image.open(io.BytesIO(data)) for data in (before["00002.png"], (tmp_path / "seen/00002.png").read_bytes())
    )
    assert all(abs(a - b) <= 1 for a, b in zip(old.tobytes(), new.tobytes(), strict=True))
    for part in first.parts:
        assert (again.parts[part].generated, again.parts[part].real) == (
            first.parts[part].generated,
            first.parts[part].real,
        )
    assert run(1).seconds_per_picture is None


def test_pictures_belong_to_the_model_and_the_arguments(shapes: Path, model: LatentDiffusion):
    settings = [Drawing(*numbers, batch_size=1) for numbers in ((2, 4.0, 0), (3, 4.0, 0), (2, 5.0, 0), (2, 4.0, 1))]
    keys = {drawing_key(model, {}, drawing) for drawing in settings}
    plain = LatentDiffusion(dataclasses.replace(model.parts, upscaler=None))
    keys |= {drawing_key(plain, {}, settings[0]), drawing_key(model, {"seen": ["a fox"]}, settings[0])}
    assert len(keys) == 6
    assert drawing_key(model, {}, dataclasses.replace(settings[0], batch_size=2)) in keys


def test_an_untrained_upscaler_is_bicubic(shapes: Path, model: LatentDiffusion):
    fidelity = measure_fidelity(model.parts, shapes, 64, limit=3)
    assert fidelity.upscaler == pytest.approx(fidelity.bicubic)
    assert fidelity.pictures == 3
    large = PictureDataset(shapes, 64, "held_out")
    found = []
    for number in range(3):
        high = large.image(number * len(large) // 3)[None]
        with torch.inference_mode():
            small = model.decode(model.encode(F.avg_pool2d(high, 2) / 2 + 0.5), upscale=False)
        apart = F.interpolate(small, scale_factor=2.0, mode="bicubic").clamp(0, 1) - (high / 2 + 0.5)
        found.append(-10 * apart.square().mean().log10().item())
    assert fidelity.bicubic == pytest.approx(sum(found) / 3, abs=0.02)


@pytest.mark.parametrize("name", ["n", "steps", "batch_size"])
def test_nothing_to_do_is_an_error(shapes: Path, model: LatentDiffusion, name: str):
    with pytest.raises(ValueError, match=f"{name}=0"):
        evaluate(model, shapes, **{name: 0})


def test_an_unfinished_data_set_is_named(model: LatentDiffusion, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist; finish"):
        evaluate(model, tmp_path)


def test_the_command_line_passes_its_batch_size_on():
    result = CliRunner().invoke(app, ["eval", "emoji", "--batch-size", "0"])
    assert result.exit_code == 2 and "batch_size=0 must be at least 1" in result.stderr


def test_a_new_setting_at_its_default_does_not_make_another_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": {"train": ["a"]}}))
    key = judge_train._key(tmp_path, JudgeConfig())
    assert judge_train._key(tmp_path, JudgeConfig(size=96)) != key
    loop = dataclasses.replace(JudgeConfig().loop, samples=7)
    assert judge_train._key(tmp_path, JudgeConfig(loop=loop)) != key
    plain = judge_train.asdict
    monkeypatch.setattr(judge_train, "asdict", lambda config: {**plain(config), "later": 0})
    assert judge_train._key(tmp_path, JudgeConfig()) == key
