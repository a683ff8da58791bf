"""`ldm eval` on any pictures with captions: what can be measured without names of things and styles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.open_source import HELD_OUT, TRAIN, SourceConfig, open_source
from ldm.evaluation.generated import Drawing, GeneratedPictures, autoencoded, drawing_key, prompts_of_each_kind
from ldm.evaluation.metrics.estimate import Estimate, Rate
from ldm.evaluation.metrics.features import FEATURE_SIZE, FeatureExtractor, nearest, stored_features, unit_length
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.metrics.sharpness import Gradients, Sharpness
from ldm.evaluation.resizing import resize
from ldm.evaluation.tables import estimate_cell, group_lines, line, measures, rate_cell, sharpness_groups, wrapped
from ldm.io.disk.files import write_json
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.progress import Progress, silent, track
from ldm.training.batches.sample_order import generator_for

_HELD_OUT_SHARE = 0.02  # as in trainings: the very pictures that they leave out
_REFERENCE = 5_000  # training pictures that are looked through
_AUTOENCODED = 100
_BATCH = 16
_MOST_ALIKE = 8
_USUAL = 0.95


@dataclass(frozen=True)
class Likeness:
    """How alike generated pictures are to training pictures, by the cosine of EfficientNet-lite0's features.

    Attributes:
        generated: mean cosine to the nearest training picture.
        real: the same of the real pictures of the same prompts, themselves left out.
        beyond_real: share of the generated pictures that are more alike to a training picture than 95 % of the real
            ones are: 5 % where nothing is copied.
        looked_through: how many training pictures; those of the prompts are among them.
    """

    generated: Estimate
    real: Estimate
    beyond_real: Rate
    looked_through: int


@dataclass(frozen=True)
class PicturePart:
    """Pictures for captions of one split."""

    pictures: int
    sharpness: Sharpness
    likeness: Likeness


@dataclass(frozen=True)
class PictureScores:
    """Everything that `evaluate_pictures` measured.

    Attributes:
        parts: by split, `train` and `held_out`.
        distance: of the pictures for training captions; None where there are too few, or for a quick reading.
        model: its name.
        steps, guidance_scale, seed: of the generated pictures.
        seconds: of the whole call.
        folder: where the generated pictures are.
        quick: whether it was a quick reading.
    """

    parts: dict[str, PicturePart]
    distance: Distance | None
    model: str
    steps: int
    guidance_scale: float
    seed: int
    seconds: float
    folder: str
    quick: bool

    def to_dict(self) -> dict[str, Any]:
        """All of it as nested dictionaries, ready for JSON."""
        return asdict(self)

    def to_table(self) -> str:
        """The scores as plain text in lines of at most 80 characters."""
        settings = f"{self.steps} steps, guidance {self.guidance_scale:g}, seed {self.seed}"
        about = [f"{self.model}: {settings}. Each cell: value ± standard error."]
        if self.quick:
            about.append("Quick: few prompts, wide errors; no Frechet distance, which needs hundreds.")
        parts = list(self.parts.values())
        likenesses = [part.likeness for part in parts]
        copies = f"Nearest of {likenesses[0].looked_through} training pictures, as a cosine: is anything copied?"
        rows = [
            ("generated", [estimate_cell(one.generated, ".3f") for one in likenesses]),
            ("real", [estimate_cell(one.real, ".3f") for one in likenesses]),
            ("beyond real, %", [rate_cell(one.beyond_real, Rate(1 - _USUAL, 1)) for one in likenesses]),
        ]
        groups = [*sharpness_groups([part.sharpness for part in parts]), (copies, rows)]
        lines = [
            *map(wrapped, about),
            "",
            line(("captions", [name.replace("_", " ") for name in self.parts])),
            line(("N", [str(part.pictures) for part in parts])),
            *(text for group in groups for text in group_lines(group)),
            "",
            *map(wrapped, measures(self.distance, None)),
            wrapped(f"Time: {self.seconds:.0f} s"),
            f"Pictures and scores: {self.folder}",
        ]
        return "\n".join(lines) + "\n"


def evaluate_pictures(
    model: LatentDiffusion,
    data: Path | str,
    n: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    folder: Path | None = None,
    quick: bool = False,
    guidance_options: Mapping[str, Any] | None = None,
    cache_options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> PictureScores:
    """Draw a picture for each of `n` captions of the training and of the held-out pictures and measure them.

    Args:
        model: to be measured.
        data: a folder, or whatever else a training reads; where it has no `held_out`, 2 % are held out, as in training.
        n: captions of each split; it may have fewer. None for 500, or 40 of a quick reading.
        steps: of the sampler; by default the model's.
        guidance_scale: None for the model's own.
        seed: draws captions and noise.
        batch_size: pictures generated at once.
        folder: where pictures, `scores.json` and `nearest.png` go, the generated pictures that are most alike to a
            training picture, above it; None for a folder in the data's cache that belongs to model and arguments.
        quick: leave out the Frechet distance.
        guidance_options: as in `Request`.
        cache_options: likewise.
        progress: of everything.

    Raises:
        ValueError: an argument is out of range, or nothing there has a caption.
        FileNotFoundError: nothing there.
    """
    n = prompts_of_each_kind(n, quick)
    drawing = Drawing.of(model, steps, guidance_scale, seed, batch_size, guidance_options, cache_options)
    data = str(data)
    started = perf_counter()
    splits = {name: _opened(data, name, FEATURE_SIZE, progress) for name in (TRAIN, HELD_OUT)}
    ids = {name: _random_ids(len(split), n, drawing.seed) for name, split in splits.items()}
    texts = {
        name: [split.words(i, generator_for(drawing.seed, i))["caption"] for i in ids[name]]
        for name, split in splits.items()
    }
    train = splits[TRAIN]
    folder = folder or train.cache / f"eval-{drawing_key(model, texts, drawing)}"
    pictures = GeneratedPictures(folder)
    pictures.draw_missing(model, texts, drawing, progress)
    extract = FeatureExtractor()
    others = _random_ids(len(train), max(_REFERENCE, n), drawing.seed)  # begins with the prompts' own
    training = stored_features(extract, train, others, train.cache, progress)
    parts, features = {}, {}
    for name, own in ids.items():
        features[name] = _features(extract, pictures, name, len(own))
        real = training[: len(own)] if name == TRAIN else stored_features(extract, splits[name], own, train.cache)
        parts[name] = PicturePart(
            pictures=len(own),
            sharpness=_sharpness(model, pictures, data, name, own, progress),
            likeness=likeness(features[name], real, training, own_first=name == TRAIN),
        )
    scores = PictureScores(
        parts=parts,
        distance=None if quick else Distance.of(features[TRAIN], training, FEATURE_SIZE),
        model=model.name,
        steps=drawing.steps,
        guidance_scale=drawing.guidance_scale,
        seed=drawing.seed,
        seconds=perf_counter() - started,
        folder=str(folder),
        quick=quick,
    )
    for name, own in ids.items():
        pictures.write_grid(name, len(own))
    rows, cosines = nearest(unit_length(features[TRAIN]), unit_length(training))
    most = np.argsort(-cosines)[:_MOST_ALIKE].tolist()
    pictures.write_beside(TRAIN, most, torch.stack([train.image(others[rows[i]]) for i in most]), "nearest")
    write_json(folder / "scores.json", scores.to_dict())
    return scores


def likeness(generated: np.ndarray, real: np.ndarray, training: np.ndarray, own_first: bool) -> Likeness:
    """How alike pictures with features generated (N, D) are to training pictures (M, D), beside real ones (N, D).

    Args:
        generated: of pictures for the same prompts as the real ones.
        real: of the real pictures.
        training: of training pictures.
        own_first: the real pictures are the first of the training pictures, and none is compared with itself.
    """
    pool = unit_length(training)
    _, ours = nearest(unit_length(generated), pool)
    cosines = unit_length(real) @ pool.T
    if own_first:
        np.fill_diagonal(cosines, -1)
    theirs = cosines.max(1)
    generated_mean, real_mean = Estimate.mean(ours), Estimate.mean(theirs)
    beyond = Rate.of((ours > np.quantile(theirs, _USUAL)).tolist())
    assert generated_mean and real_mean and beyond
    return Likeness(generated_mean, real_mean, beyond, len(training))


def _opened(data: str, split: str, size: int, progress: Progress, cache_pictures: str = "auto") -> PictureDataset:
    source = open_source([SourceConfig(data)], split, _HELD_OUT_SHARE, progress=progress)
    return PictureDataset(source, size, cache_pictures=cache_pictures, progress=progress)


def _random_ids(count: int, n: int, seed: int) -> list[int]:
    """At most `n` of so many pictures in random order; fewer are the first of more."""
    return Random(seed).sample(range(count), count)[:n]


def _features(extract: FeatureExtractor, pictures: GeneratedPictures, part: str, count: int) -> np.ndarray:
    starts = range(0, count, _BATCH)
    return extract(pictures.read(part, range(k, min(k + _BATCH, count)), FEATURE_SIZE) for k in starts)


def _sharpness(
    model: LatentDiffusion,
    pictures: GeneratedPictures,
    data: str,
    part: str,
    ids: Sequence[int],
    progress: Progress,
) -> Sharpness:
    """Beside the real pictures at the size at which they are generated, or at the real ones' usual size if smaller."""
    edge = pictures.edge(part)
    usual = int(np.median(_opened(data, part, edge, progress, "false").original_sizes.min(1)))
    size = min(edge, max(2, usual))
    split = _opened(data, part, size, progress, "false")
    gradients: tuple[list[Gradients], ...] = ([], [], [])
    for start in track(range(0, len(ids), _BATCH), f"reading {part.replace('_', ' ')}", progress):
        numbers = range(start, min(start + _BATCH, len(ids)))
        real = torch.stack([split.image(ids[i]) for i in numbers])
        gradients[0].append(Gradients.of(resize(pictures.read(part, numbers, edge), size)))
        gradients[1].append(Gradients.of(real))
        if start < _AUTOENCODED:
            gradients[2].append(Gradients.of(autoencoded(model, real, size)))
    return Sharpness.of(size, *(Gradients.join(some) for some in gradients))
