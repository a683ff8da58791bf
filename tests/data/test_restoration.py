import io
from functools import partial

import numpy as np
import pytest
import torch
from checkout import CONFIGS
from PIL import Image

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.pictures.photographs import PHOTOGRAPHS, photographs
from ldm.data.pictures.procedural import procedural_picture
from ldm.data.restoration import RestorationDataConfig, RestorationDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.degradation.known_damage import KINDS
from ldm.degradation.random_degrade import DegradeConfig
from ldm.io.folder.restorer import load_restorer
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

KIND_NAMES = tuple(KINDS)
DRAWINGS_ONLY = {"photographs": 0.0, "procedural": 0.0, "tinted": 0.0, "scaled": 0.0}


def _shard(folder, size=64, n=4):
    def samples():
        random = np.random.default_rng(0)
        for i in range(n):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, format="PNG")
            yield Sample(f"{i:06d}", file.getvalue(), {"captions": ["noise"], "label": i, "weight": 1.0})

    write_shard(folder / "train" / "000000.tar", samples())
    write_shard(folder / "held_out" / "000000.tar", samples())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return _shard(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def pictures(folder):
    return PictureDataset(folder, 32, crop_fraction=0.5)


def dataset(pictures, **settings):
    return RestorationDataset(pictures, RestorationDataConfig(size=32, **{"crop": 16, **settings}), KIND_NAMES)


def items(data, n=60):
    return [data.item(i % len(data), torch.Generator().manual_seed(i)) for i in range(n)]


def _levels(image):
    return (image + 1) * 127.5


@pytest.mark.parametrize(
    "settings", [{}, {"grey": 1.0}, DRAWINGS_ONLY, {"procedural": 1.0, "photographs": 0.0}, {"compound": 0.9}]
)
def test_items_are_pairs_of_8_bits(pictures, settings):
    for item in items(dataset(pictures, **settings), 40):
        for name in ("clean", "damaged"):
            levels = _levels(item[name])
            assert item[name].shape == (3, 16, 16)
            torch.testing.assert_close(levels, levels.round().clamp(0, 255), atol=1e-3, rtol=0)
        assert item["strength"].shape == (len(KINDS),) and bool(
            ((item["strength"] >= 0) & (item["strength"] <= 1)).all()
        )


def test_items_are_decided_by_the_generator(pictures):
    data = dataset(pictures)
    for one, other in zip(items(data, 20), items(data, 20), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_conditions_are_nothing_or_the_damage(pictures):
    found = items(dataset(pictures, clean=0.0, compound=0.0, stated=0.5), 200)
    stated = [bool(item["conditions"].any()) for item in found]
    assert 60 < sum(stated) < 140
    for item in found:
        there, strength = item["conditions"].chunk(2)
        if there.any():
            assert torch.equal(strength, item["strength"]) and torch.equal(there, (strength > 0).float())


def test_grey_crops_are_damaged_in_all_channels_alike(pictures):
    for item in items(dataset(pictures, grey=1.0), 20):
        assert all(bool((item[name] == item[name][:1]).all()) for name in ("clean", "damaged"))


def test_every_kind_occurs_and_a_share_is_clean(pictures):
    found = items(dataset(pictures, clean=0.2), 400)
    strength = torch.stack([item["strength"] for item in found])
    assert bool((strength > 0).any(0).all())
    clean = [item for item in found if not item["strength"].any()]
    assert 40 < len(clean) < 130
    assert all(torch.equal(item["clean"], item["damaged"]) for item in clean)
    assert any(item["conditions"].any() for item in clean)  # is said to be damaged, which the network must not believe


def test_compound_damage_has_several_kinds_of_the_degradation_that_is_set(pictures):
    no_noise = {"salt_and_pepper": (0, 0), "speckle": (0, 0), "poisson": (0, 0)}
    degrade = DegradeConfig(blur=0, resize=1, resize_factors=(2, 2), noise=1, jpeg=1, jpeg_quality=(28, 28), **no_noise)
    for item in items(dataset(pictures, clean=0.0, compound=1.0, degrade=degrade), 20):
        found = {name: float(share) for name, share in zip(KIND_NAMES, item["strength"], strict=True) if share}
        assert found.keys() == {"gaussian", "resize", "jpeg"}
        assert (found["resize"], found["jpeg"]) == pytest.approx((0.5, 0.8))


def test_tinting_gives_white_grounds_a_colour(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    write_shard(tmp_path / "train" / "000000.tar", [Sample("0", buffer.getvalue(), {"captions": ["x"], "label": 0})])
    white = PictureDataset(tmp_path, 32, crop_fraction=0.5)
    make = partial(dataset, white, **{**DRAWINGS_ONLY, "scaled": 0.5})
    assert all(bool((item["clean"] == 1).all()) for item in items(make(), 10))
    assert not any(bool((item["clean"] == 1).all()) for item in items(make(tinted=1.0), 10))


def test_pictures_from_formulas_differ_and_are_decided_by_their_seed():
    made = [procedural_picture(np.random.default_rng(i), 24) for i in range(30)]
    assert all(picture.shape == (24, 24, 3) and picture.dtype == np.uint8 for picture in made)
    assert len({picture.tobytes() for picture in made}) > 25
    assert np.array_equal(made[3], procedural_picture(np.random.default_rng(3), 24))


def test_photographs_have_a_free_licence_and_held_out_ones_are_others():
    train_set, held_out = ({name for files in PHOTOGRAPHS[split].values() for name in files} for split in PHOTOGRAPHS)
    assert not train_set & held_out
    licences = {
        text.rpartition(", ")[2] for split in PHOTOGRAPHS.values() for f in split.values() for text in f.values()
    }
    assert licences == {"public domain", "CC0", "CC BY 2.0"}
    assert len(photographs("train")) == len(train_set)
    assert all(picture.ndim == 3 and min(picture.shape[:2]) >= 100 for picture in photographs("train"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"photographs": 0.7, "procedural": 0.4}, "sum to more than 1"),
        ({"tinted": 2.0}, "data.tinted=2.0"),
        ({"crop": 6}, "data.crop=6"),
        ({"size": 20}, "data.size=20"),
        ({"held_out": 0.0}, "data.held_out=0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RestorationDataConfig(**{"size": 32, "crop": 16, **settings})


@pytest.mark.slow
def test_the_stage_trains_resumes_and_exports(folder, tmp_path):
    tiny = ["restorer.widths=[4,8]", "restorer.encoder_blocks=[1]", "restorer.middle_blocks=1"]
    tiny += ["restorer.decoder_blocks=[1]", "data.size=32", "data.crop=16", "loop.batch_size=4", "loop.log_every=4"]
    tiny += ["loop.trackers=[]", f"data.folder={folder}", "loop.precision=fp32", "loop.preview_every=8"]
    run = partial(load_run, CONFIGS / "restorer.yaml")
    whole = train(run([*tiny, f"output={tmp_path / 'whole'}", "loop.samples=24", "export_dtype=fp32"]))
    halves = [*tiny, f"output={tmp_path / 'halves'}", "loop.samples=24", "loop.save_every=12", "export_dtype=fp32"]
    train(run([*halves, "loop.minutes=0.00001"]))
    assert train(run(halves)).samples_seen == whole.samples_seen == 24
    from_there = [*tiny, f"output={tmp_path / 'finder'}", f"initial={tmp_path / 'whole'}", "finder_only=true"]
    train(run([*from_there, "loop.samples=16", "export_dtype=fp32", "loop.ema_half_life=0"]))
    before, after = (load_restorer(tmp_path / name / "export").state_dict() for name in ("whole", "finder"))
    assert {name for name in before if not torch.equal(before[name], after[name])} >= {"finder.head.2.bias"}
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("finder."))
    ours, theirs = (load_restorer(tmp_path / name / "export").state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
