"""A text tower that learns to sketch keeps its words, gives pictures cell by cell, and stays a CLIP text tower."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkout import CONFIGS
from transformers import CLIPTextModel, CLIPTokenizer

from conditioning.clip.clip_text import ClipText
from conditioning.training.image_tokens import ImageTokenConfig, ImageTokenObjective, ImageTokenTower
from conditioning.training.tower_shapes import lengthened
from ldm.data.recipes.digits import build_digits
from ldm.io.folder.load import load_text
from ldm.training.batches.loader import spread_batch
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

CAPTIONS = ["a red apple", "sea", "red sea"]
CONFIG = ImageTokenConfig(cells=2, size=4, sentences=1.0)


@pytest.fixture
def text(tiny_folder: Path) -> ClipText:
    return load_text(tiny_folder)


def batch() -> dict:
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": pictures, "caption": CAPTIONS}


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(3)]


def test_a_tower_goes_on_with_more_cells_and_keeps_what_it_says_with_them(text: ClipText):
    coarse = lengthened(text, 4)
    with torch.no_grad():
        coarse.model.embeddings.position_embedding.weight[-4:].normal_()
    config = replace(CONFIG, cells=4, keep_kinds=("icon",))
    objective = ImageTokenObjective(text, config, ["the sea"], coarse)
    losses = objective.loss("text", {**batch(), "kind": ["icon", "pair", "icon"]}, generators(), 0)
    assert losses is not None and losses["anchor"].item() < 1e-10 and losses["kept"].item() < 1e-10
    losses["loss"].backward()
    moved = objective.trained_modules["text"].model.embeddings.position_embedding.weight.grad  # type: ignore[union-attr]
    assert len(moved) == text.tokenizer.model_max_length + 16
    assert len(moved[-16:].unique(dim=0)) == 16  # no two cells learn the same
    with pytest.raises(
        ValueError, match=f"does not sketch 9 cells after the {text.max_tokens} words of text, nor fewer"
    ):
        ImageTokenObjective(text, replace(CONFIG, cells=3, size=6), (), coarse)


def test_a_head_is_fitted_to_the_states_that_a_tower_has(text: ClipText):
    """A linear map of the states is found again, whatever the head was."""
    objective = ImageTokenObjective(text, CONFIG)
    tower = objective.trained_modules["text"]
    assert isinstance(tower, ImageTokenTower)
    with torch.no_grad():
        tower.model.embeddings.position_embedding.weight[text.max_tokens :].normal_()
    captions = [f"{one} {other} {third}" for one in ("a", "red", "sea") for other in "abcdefgh" for third in "ijklmnop"]
    longer = lengthened(text, 4)
    ids = torch.tensor([longer.row(longer.ids(caption)) for caption in captions])
    with torch.no_grad():
        wanted = tower(ids)[1]
    former = {name: weight.clone() for name, weight in tower.model.state_dict().items()}
    torch.nn.init.normal_(tower.head.weight)
    assert (tower(ids)[1] - wanted).square().mean() > 0.1
    objective.fit_head({"image": wanted, "caption": captions})
    assert (tower(ids)[1] - wanted).square().mean() < 1e-4
    assert all(torch.equal(weight, former[name]) for name, weight in tower.model.state_dict().items())


def test_each_of_the_last_states_draws_one_cell(text: ClipText):
    tower = ImageTokenTower(lengthened(text, 4).model, CONFIG).eval()
    ids = torch.tensor([lengthened(text, 4).row(text.ids(caption)) for caption in CAPTIONS])
    with torch.no_grad():
        states, sketches = tower(ids)
        for cell in range(4):
            top, left = 2 * (cell // 2), 2 * (cell % 2)
            cell_of = tower.head(states[:, -4 + cell]).reshape(3, 3, 2, 2)  # channels, rows, columns
            torch.testing.assert_close(sketches[:, :, top : top + 2, left : left + 2], cell_of)


def test_loss_is_the_error_of_the_sketch_and_the_drift_of_the_words(text: ClipText):
    objective = ImageTokenObjective(text, CONFIG, ["the sea", "an apple"])
    losses = objective.loss("text", batch(), generators(), 0)
    assert losses is not None
    assert losses["anchor"].item() < 1e-10  # nothing moved yet
    tower = objective.trained_modules["text"]
    longer = lengthened(text, 4)
    _, sketches = tower(torch.tensor([longer.row(longer.ids(caption)) for caption in CAPTIONS]))
    small = batch()["image"].reshape(3, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(losses["image_tokens"], (sketches - small).square().mean())

    assert isinstance(tower, ImageTokenTower)
    table = tower.model.embeddings
    with torch.no_grad():
        table.position_embedding.weight[text.max_tokens + 2 :].normal_()  # the cells alone
        unmoved = objective.loss("text", batch(), generators(), 0)
        table.position_embedding.weight[1].normal_()  # a word
        moved = objective.loss("text", batch(), generators(), 0)
    assert unmoved is not None and unmoved["anchor"].item() < 1e-10
    assert moved is not None and moved["anchor"].item() > 1e-3
    torch.testing.assert_close(moved["loss"], moved["image_tokens"] + moved["anchor"])
    objective.config = replace(CONFIG, anchor_weight=2.5)
    heavy = objective.loss("text", batch(), generators(), 0)
    assert heavy is not None
    torch.testing.assert_close(heavy["loss"], moved["image_tokens"] + 2.5 * moved["anchor"])


def test_kinds_that_are_kept_show_nothing_and_hold_all_states(text: ClipText):
    """Of kept kinds and of sentences all states stay, in shares of how far texts are apart; of others the words do."""
    start = lengthened(text, 4)
    with torch.no_grad():
        start.model.embeddings.position_embedding.weight[text.max_tokens :].normal_()
    objective = ImageTokenObjective(text, replace(CONFIG, keep_kinds=("icon",)), ["the sea", "an apple"], start)
    tower = objective.trained_modules["text"]
    assert isinstance(tower, ImageTokenTower)
    mixed = {**batch(), "kind": ["icon", "pair", "icon"]}
    losses = objective.loss("text", mixed, generators(), 0)
    assert losses is not None and losses["kept"].item() < 1e-10  # nothing moved yet

    _, sketches = tower(torch.tensor([start.row(start.ids("sea"))]))
    small = mixed["image"][1:2].reshape(1, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(losses["image_tokens"], (sketches - small).square().mean())  # of the pair alone

    with torch.no_grad():
        tower.model.embeddings.position_embedding.weight[text.max_tokens :].normal_()  # the cells alone
    moved = objective.loss("text", mixed, generators(), 0)
    kept = [mixed["caption"][0], mixed["caption"][2], *objective._random_sentences(generators())]
    ids = torch.tensor([start.row(start.ids(caption)) for caption in kept])
    with torch.no_grad():
        now, former = tower.model(ids).last_hidden_state, start.encode_ids(ids).tokens
    shares = (now - former).square().mean((0, 2)) / former.var(0, unbiased=False).mean(1).clamp(min=0.01)
    assert moved is not None and moved["anchor"].item() < 1e-10 and moved["kept"].item() > 1e-3
    torch.testing.assert_close(moved["kept"], shares.mean())
    torch.testing.assert_close(moved["loss"], moved["image_tokens"] + moved["anchor"] + moved["kept"])


@pytest.mark.parametrize("kinds", [["icon"] * 3, ["pair"] * 3])
def test_a_batch_may_be_all_kept_or_not_at_all(text: ClipText, kinds: list[str]):
    config = replace(CONFIG, keep_kinds=("icon",), sentences=0.0)
    objective = ImageTokenObjective(text, config, (), lengthened(text, 4))
    losses = objective.loss("text", {**batch(), "kind": kinds}, generators(), 0)
    assert losses is not None
    losses["loss"].backward()
    assert (losses["image_tokens"].item() == 0) == (kinds[0] == "icon")
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.trained_modules["text"].parameters())


def test_what_a_tower_does_not_say_yet_cannot_be_kept(text: ClipText):
    with pytest.raises(ValueError, match=r"image_tokens.keep_kinds=\['icon'\]: there is no tower yet"):
        ImageTokenObjective(text, replace(CONFIG, keep_kinds=("icon",)))


def test_latents_are_sketched_where_the_data_give_them(text: ClipText):
    objective = ImageTokenObjective(text, CONFIG, channels=5, decode=lambda z: z[:, :3] * 2)
    latents = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = {"mean": latents, "caption": CAPTIONS}
    losses = objective.loss("text", seen, generators(), 0)
    longer = lengthened(text, 4)
    ids = torch.tensor([longer.row(longer.ids(caption)) for caption in CAPTIONS])
    _, sketches = objective.trained_modules["text"](ids)
    small = latents.reshape(3, 5, 4, 2, 4, 2).mean((3, 5))
    assert losses is not None and sketches.shape == small.shape
    torch.testing.assert_close(losses["image_tokens"], (sketches - small).square().mean())
    shown = objective.preview(seen, objective.trained_modules)["real"]
    doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :3]  # whole latents are decoded
    torch.testing.assert_close(shown, (doubled + 0.5).clamp(0, 1))


def test_a_training_on_latents_takes_the_autoencoder_of_its_folder(tiny_folder: Path, tmp_path: Path):
    build_digits(tmp_path / "data", size=16)
    settings = {
        "text": tiny_folder,
        "autoencoder": tiny_folder,
        "output": tmp_path / "run",
        "data.folder": tmp_path / "data",
        "data.size": 16,
        "image_tokens.cells": 2,
        "image_tokens.size": 4,
        "image_tokens.feed_forward": 0,
        "loop.samples": 32,
        "loop.batch_size": 16,
        "loop.previews": 4,
        "loop.precision": "fp32",
        "loop.trackers": "[]",
    }
    run = load_run(CONFIGS / "emoji" / "image_tokens.yaml", [f"{key}={value}" for key, value in settings.items()])
    (network,) = run.networks()
    assert network.build().head.out_features == 4 * 2 * 2  # channels of the tiny autoencoder, cells of 2 x 2
    train(run)
    assert load_text(tmp_path / "run" / "export").max_tokens == load_text(tiny_folder).max_tokens + 4


@pytest.mark.slow
def test_a_training_learns_to_sketch_and_its_export_is_a_clip_text_tower(tiny_folder: Path, tmp_path: Path):
    build_digits(tmp_path / "data", size=16)
    config = CONFIGS / "emoji" / "image_tokens.yaml"
    settings = {
        "text": tiny_folder,
        "output": tmp_path / "run",
        "data.folder": tmp_path / "data",
        "data.size": 16,
        "image_tokens.size": 8,
        "image_tokens.feed_forward": 0,
        "loop.samples": 640,
        "loop.batch_size": 16,
        "loop.log_every": 16,
        "loop.previews": 4,
        "loop.learning_rate": 2e-2,
        "loop.warmup": 2,
        "loop.precision": "fp32",
        "loop.trackers": "[]",
    }
    trainer = train(load_run(config, [f"{key}={value}" for key, value in settings.items()]))
    lines = (tmp_path / "run" / "stats.jsonl").read_text().splitlines()
    first, last = (float(line.split('"text/image_tokens": ')[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert last < 0.5 * first
    shown = {path.name.split("-")[0] for path in (tmp_path / "run" / "previews").iterdir()}
    assert shown == {"image_tokens", "index.html"}  # the real ones stand beside

    folder = tmp_path / "run" / "export"
    opened = load_text(folder)
    assert opened.max_tokens == load_text(tiny_folder).max_tokens + 16
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    ids = tokenizer(["the digit seven"], padding="max_length", max_length=tokenizer.model_max_length).input_ids
    with torch.no_grad():
        states = model(torch.tensor(ids)).last_hidden_state
    torch.testing.assert_close(opened.encode(["the digit seven"]).tokens, states, rtol=1e-5, atol=1e-5)
    averaged = trainer.trained_modules["text"].weights(None)
    assert isinstance(averaged, ImageTokenTower)
    with torch.no_grad():
        torch.testing.assert_close(averaged.model(torch.tensor(ids)).last_hidden_state, states, rtol=1e-5, atol=1e-5)

    goes_on = settings | {"initial": folder, "output": tmp_path / "more", "image_tokens.feed_forward": 256}
    run = load_run(config, [f"{key}={value}" for key, value in (goes_on | {"loop.samples": 16}).items()])
    train(run)
    more = load_text(tmp_path / "more" / "export")
    assert more.max_tokens == opened.max_tokens  # no cells are added again
    assert more.model.config.intermediate_size == 256  # type: ignore[union-attr]
    finer = replace(run, image_tokens=replace(run.image_tokens, cells=8), output=str(tmp_path / "finer"))
    train(finer)
    assert load_text(tmp_path / "finer" / "export").max_tokens == load_text(tiny_folder).max_tokens + 64
    with pytest.raises(ValueError, match="initial: a tower that reads"):
        train(replace(run, initial=str(tiny_folder), output=str(tmp_path / "no")))
    kept = replace(run, text="", output=str(tmp_path / "kept")).build(torch.device("cpu"))
    batch = spread_batch(kept.dataset, 8, 1, torch.device("cpu"))
    losses = kept.objective.loss("text", batch, [torch.Generator().manual_seed(i) for i in range(8)], 0)
    assert losses is not None and losses["anchor"] < 1e-10  # the words are those of `initial`
    assert losses["image_tokens"] < 0.5 * first  # and its image tokens are read again
    keeping = replace(run, text="", image_tokens=replace(run.image_tokens, keep_kinds=("icon",)))
    losses = keeping.build(torch.device("cpu")).objective.loss("text", batch, [torch.Generator()] * 8, 0)
    assert losses is not None and losses["image_tokens"] == 0 and losses["kept"] < 1e-10  # all digits are icons
    misspelt = replace(run, image_tokens=replace(run.image_tokens, keep_kinds=("icon", "digit")))
    with pytest.raises(ValueError, match=r"image_tokens\.keep_kinds: no picture is of kind digit; the kinds are icon"):
        misspelt.build(torch.device("cpu"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"size": 30}, "size=30 must be a multiple"), ({"sentences": 1.5}, "sentences=1.5 is no share")],
)
def test_impossible_sketches_are_refused(settings: dict, words: str):
    with pytest.raises(ValueError, match=words):
        ImageTokenConfig(**settings)
