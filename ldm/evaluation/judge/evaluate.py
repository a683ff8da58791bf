"""`ldm eval`: generates pictures for the prompts of a data set, and scores them with its judge."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ldm.data.pictures.dataset import PictureDataset
from ldm.evaluation.judge.classifier import Judge, resize
from ldm.evaluation.judge.prompts import Prompt, choose_prompts, load_manifest, style_words
from ldm.evaluation.judge.scores import Distance, PartScores, Scores, accuracies
from ldm.evaluation.judge.train import JudgeConfig, load_splits, trained_judge
from ldm.evaluation.metrics.fidelity import measure_fidelity
from ldm.evaluation.metrics.frechet import FeatureExtractor, Gaussian, frechet_distance
from ldm.generation.pipeline import LatentDiffusion
from ldm.generation.request import Request
from ldm.io.disk.files import write_file, write_folder, write_json
from ldm.progress import Progress, silent, track
from ldm.training.reports.report import picture_grid

FEATURE_SIZE = 128
_REFERENCE = 5_000  # real pictures; a fifth of them is set aside to be compared with the others
_BATCH = 64
_SEEDS_OF_A_PART = 1_000_000
_GRID = 64


def evaluate(
    model: LatentDiffusion,
    data_folder: Path | str,
    n: int = 500,
    steps: int = 25,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    folder: Path | None = None,
    judge_config: JudgeConfig | None = None,
    progress: Progress = silent,
) -> Scores:
    """Draw pictures for `n` prompts of every part of `ldm.evaluation.judge.prompts.PARTS` and judge them.

    The judge is trained first where the data set has none yet. Each picture is saved as soon as it is finished, so that
    after an interrupt the same call goes on where it was. A folder also receives `scores.json`, `scores.md` and a grid
    per part.

    Args:
        model: to be judged.
        data_folder: as `ldm data build` writes it.
        n: prompts of each part; some parts have fewer.
        steps: of the sampler.
        guidance_scale: None for the model's own.
        seed: draws prompts and noise.
        batch_size: pictures generated at once; it does not change them but for rounding.
        folder: where pictures and scores go; None for one in the data set's cache that belongs to model and arguments.
        judge_config: how the judge is trained; None for the one that all published numbers use.
        progress: of everything but the judge's training, which draws its own bar.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: no finished data set there.
    """
    for name, value in (("n", n), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    data_folder = Path(data_folder)
    words = style_words(load_manifest(data_folder))
    config = judge_config or JudgeConfig()
    splits = load_splits(data_folder, 2 * config.size, progress)
    prompts = choose_prompts([_metas(split) for split in splits], n, seed, words)
    judge, quality = trained_judge(data_folder, config, progress)
    scale = model.parts.defaults.guidance_scale if guidance_scale is None else guidance_scale
    folder = folder or data_folder / ".cache" / f"eval-{_key(model, prompts, steps, scale, seed)}"
    seconds = _draw_missing(model, prompts, folder, steps, scale, seed, batch_size, progress)
    scores = Scores(
        parts={part: _judged(judge, chosen, folder / part, splits) for part, chosen in prompts.items()},
        judge_known=quality.known,
        judge_new=quality.new,
        distance=_distance(data_folder, prompts.get("seen", []), folder / "seen", progress),
        fidelity=measure_fidelity(model.parts, data_folder, progress=progress) if len(splits) > 1 else None,
        model=model.name,
        steps=steps,
        guidance_scale=scale,
        seed=seed,
        seconds_per_picture=seconds,
        folder=str(folder),
    )
    for part, chosen in prompts.items():
        _write_grid(folder, part, min(len(chosen), _GRID), FEATURE_SIZE)
    write_json(folder / "scores.json", scores.to_dict())
    write_file(folder / "scores.md", scores.to_markdown().encode())
    return scores


def _draw_missing(
    model: LatentDiffusion,
    prompts: dict[str, list[Prompt]],
    folder: Path,
    steps: int,
    scale: float,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> float | None:
    """Draw the pictures that are not in `folder` yet: `folder/<part>/00012.png`. Returns seconds per new picture."""
    tasks = [
        (prompt.text, seed + number * _SEEDS_OF_A_PART + i, folder / part / _file_name(i))
        for number, (part, chosen) in enumerate(prompts.items())
        for i, prompt in enumerate(chosen)
    ]
    missing = [task for task in tasks if not task[2].is_file()]
    if not missing:
        return None
    started, done = perf_counter(), len(tasks) - len(missing)
    progress("drawing pictures", done, len(tasks))
    for batch in _runs(missing, batch_size):
        texts = tuple(text for text, _, _ in batch)
        request = Request(prompt=texts, seed=batch[0][1], num_inference_steps=steps, guidance_scale=scale)
        result = model.steps(request).result
        for picture, (_, _, path) in zip(result.images, batch, strict=True):
            _write_picture(picture, path)
        done += len(batch)
        progress("drawing pictures", done, len(tasks))
    return (perf_counter() - started) / len(missing)


def _runs(tasks: Sequence[tuple[str, int, Path]], longest: int) -> Iterator[list[tuple[str, int, Path]]]:
    """Batches with consecutive seeds: the pipeline gives picture i of a batch the seed `first + i`."""
    run: list[tuple[str, int, Path]] = []
    for task in tasks:
        if run and (len(run) == longest or task[1] != run[-1][1] + 1):
            yield run
            run = []
        run.append(task)
    if run:
        yield run


def _judged(judge: Judge, prompts: Sequence[Prompt], folder: Path, splits: Sequence[PictureDataset]) -> PartScores:
    expected = [prompt.expected for prompt in prompts]
    generated = judge.classify(_generated(folder, len(prompts), 2 * judge.size), expected)
    real = judge.classify(torch.stack([splits[prompt.split].image(prompt.index) for prompt in prompts]), expected)
    return PartScores(accuracies(generated, expected, judge.twins), accuracies(real, expected, judge.twins))


def _distance(data_folder: Path, prompts: Sequence[Prompt], folder: Path, progress: Progress) -> Distance | None:
    """Generated pictures of seen cells, and as many real ones, against real pictures of other seen cells."""
    pictures = PictureDataset(data_folder, FEATURE_SIZE, progress=progress)
    cells = choose_prompts([_metas(pictures)], _REFERENCE, 0, {})["seen"]
    aside = max(2, len(cells) // 5)
    count = min(len(prompts), aside)
    if count < 2 or len(cells) < aside + 2:
        return None
    extract = FeatureExtractor()
    real = _real_features(extract, pictures, [cell.index for cell in cells], data_folder / ".cache", progress)
    reference = Gaussian.of(real[aside:])
    generated = Gaussian.of(extract(_generated(folder, count, FEATURE_SIZE).split(_BATCH)))
    return Distance(
        generated=frechet_distance(generated, reference),
        real=frechet_distance(Gaussian.of(real[:count]), reference),
        pictures=count,
        reference=reference.n,
        size=FEATURE_SIZE,
    )


def _real_features(
    extract: FeatureExtractor, pictures: PictureDataset, ids: list[int], cache: Path, progress: Progress
) -> np.ndarray:
    key = hashlib.sha256(json.dumps([pictures.fingerprint, ids]).encode()).hexdigest()[:12]
    file = cache / f"features-{key}" / "features.npy"
    if not file.is_file():
        starts = track(range(0, len(ids), _BATCH), "features of real pictures", progress)
        features = extract(torch.stack([pictures.image(i) for i in ids[k : k + _BATCH]]) for k in starts)
        with write_folder(file.parent) as temporary:
            np.save(temporary / file.name, features)
    return np.load(file)


def _generated(folder: Path, count: int, size: int) -> Tensor:
    """The first `count` generated pictures of a part: (count, 3, size, size) in [-1, 1]."""
    return torch.cat([resize(_read_picture(folder / _file_name(i)), size) for i in range(count)])


def _file_name(number: int) -> str:
    return f"{number:05d}.png"


def _read_picture(path: Path) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def _write_picture(picture: Image.Image, path: Path) -> None:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    write_file(path, encoded.getvalue())


def _write_grid(folder: Path, part: str, count: int, size: int) -> None:
    tiles = _generated(folder / part, count, size) / 2 + 0.5
    _write_picture(Image.fromarray(picture_grid(tiles).numpy()), folder / f"{part}.png")


def _metas(pictures: PictureDataset) -> list[dict[str, Any]]:
    return [pictures.metadata(i) for i in range(len(pictures))]


def _key(model: LatentDiffusion, prompts: dict[str, list[Prompt]], steps: int, scale: float, seed: int) -> str:
    digest = hashlib.sha256(json.dumps([steps, scale, seed]).encode())
    digest.update(json.dumps([[part, prompt.text] for part, chosen in prompts.items() for prompt in chosen]).encode())
    parts = model.parts
    for network in (parts.text, parts.unet, parts.autoencoder, parts.upscaler):
        for name, value in sorted(network.state_dict().items()) if isinstance(network, nn.Module) else ():
            digest.update(f"{name} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
