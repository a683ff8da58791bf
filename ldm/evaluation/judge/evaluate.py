"""`ldm eval`: generates pictures for the prompts of a data set, and scores them with its judge."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ldm.data.pictures.dataset import PictureDataset
from ldm.evaluation.generated import Drawing, GeneratedPictures, autoencoded, drawing_key, prompts_of_each_kind
from ldm.evaluation.judge.classifier import Judge, Verdict
from ldm.evaluation.judge.drawings import RealDrawings, disturbed, nearest_scores, view_features
from ldm.evaluation.judge.prompts import Prompt, choose_prompts, load_manifest, style_words
from ldm.evaluation.judge.report import Scores
from ldm.evaluation.judge.scores import Nearest, PartScores, accuracies
from ldm.evaluation.judge.train import JudgeConfig, load_splits, trained_judge
from ldm.evaluation.metrics.features import FEATURE_SIZE, FeatureExtractor
from ldm.evaluation.metrics.fidelity import measure_fidelity
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.metrics.sharpness import Gradients, Sharpness
from ldm.evaluation.resizing import resize
from ldm.io.disk.files import write_file, write_json
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.progress import Progress, silent, track

_REFERENCE = 5_000  # real pictures; a fifth of them is set aside to be compared with the others
_FIDELITY = 500  # pictures that are autoencoded to measure PSNR
_QUICK_FIDELITY = 48
_AUTOENCODED = 100  # real pictures of each part, to say what the autoencoder leaves of them
_BATCH = 16


def evaluate(
    model: LatentDiffusion,
    data_folder: Path | str,
    n: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    folder: Path | None = None,
    judge_config: JudgeConfig | None = None,
    quick: bool = False,
    guidance_options: Mapping[str, Any] | None = None,
    cache_options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Scores:
    """Draw pictures for `n` prompts of every part of `ldm.evaluation.judge.prompts.PARTS` and judge them.

    The judge is trained first where the data set has none yet. Each picture is saved as soon as it is finished, so that
    after an interrupt the same call goes on where it was. A folder also receives `scores.json`, `scores.md` and a grid
    per part.

    Args:
        model: to be judged.
        data_folder: as `ldm data build` writes it.
        n: prompts of each part; some parts have fewer. None for 500, or 40 of a quick reading.
        steps: of the sampler; by default the model's.
        guidance_scale: None for the model's own.
        seed: draws prompts and noise.
        batch_size: pictures generated at once; it does not change them but for rounding.
        folder: where pictures and scores go; None for one in the data set's cache that belongs to model and arguments.
        judge_config: how the judge is trained; None for the one that all published numbers use.
        quick: measure what a few pictures can say: no Frechet distance, and a PSNR of fewer pictures.
        guidance_options: as in `Request`.
        cache_options: likewise.
        progress: of everything but the judge's training, which draws its own bar.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: no finished data set there.
    """
    n = prompts_of_each_kind(n, quick)
    drawing = Drawing.of(model, steps, guidance_scale, seed, batch_size, guidance_options, cache_options)
    data_folder = Path(data_folder)
    manifest = load_manifest(data_folder)
    config = judge_config or JudgeConfig()
    prepared: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with _timed(prepared, "pictures"):
        splits = load_splits(data_folder, FEATURE_SIZE, progress)
        metas = [[split.metadata(i) for i in range(len(split))] for split in splits]
        prompts = choose_prompts(metas, n, seed, style_words(manifest))
    with _timed(prepared, "judge"):
        judge, quality = trained_judge(data_folder, config, progress)
    extract = FeatureExtractor()
    with _timed(prepared, "features of drawings"):
        drawings = RealDrawings.of(splits, extract, data_folder / ".cache", progress)
    texts = {part: [prompt.text for prompt in chosen] for part, chosen in prompts.items()}
    folder = folder or data_folder / ".cache" / f"eval-{drawing_key(model, texts, drawing)}"
    pictures = GeneratedPictures(folder)
    with _timed(seconds, "drawing"):
        count = pictures.draw_missing(model, texts, drawing, progress)
    judged = load_splits(data_folder, 2 * config.size, progress)
    readers = _Readers(model, judge, judged, drawings, extract, data_folder, manifest["size"], pictures)
    parts, features = {}, {}
    for part, chosen in prompts.items():
        with _timed(seconds, f"reading {part.replace('_', ' ')}"):
            parts[part], features[part] = readers.score(part, chosen, progress)
    distance = None
    if not quick and "seen" in features:
        cells = choose_prompts(metas[:1], _REFERENCE, 0, {})["seen"]
        real = drawings.of_pictures(0, [cell.index for cell in cells])
        distance = Distance.of(np.concatenate(features["seen"]), real, FEATURE_SIZE)
    fidelity = None
    with _timed(seconds, "PSNR"):
        if len(splits) > 1:
            limit = _QUICK_FIDELITY if quick else _FIDELITY
            fidelity = measure_fidelity(model.parts, data_folder, manifest["size"], limit, progress=progress)
    scores = Scores(
        parts=parts,
        judge_known=quality.known,
        judge_new=quality.new,
        distance=distance,
        fidelity=fidelity,
        model=model.name,
        steps=drawing.steps,
        guidance_scale=drawing.guidance_scale,
        seed=seed,
        seconds_per_picture=seconds["drawing"] / count if count else None,
        folder=str(folder),
        quick=quick,
        drawings=len(drawings),
        prepared=prepared,
        seconds=seconds,
    )
    for part, chosen in prompts.items():
        pictures.write_grid(part, len(chosen))
    write_json(folder / "scores.json", scores.to_dict())
    write_file(folder / "scores.md", scores.to_markdown().encode())
    return scores


@dataclass(frozen=True)
class _Readers:
    """All that looks at pictures of a part, and where generated and real pictures are.

    Attributes:
        judged: the real pictures at the size at which the judge looks at them.
        largest: size of the real pictures.
    """

    model: LatentDiffusion
    judge: Judge
    judged: Sequence[PictureDataset]
    drawings: RealDrawings
    extract: FeatureExtractor
    data_folder: Path
    largest: int
    pictures: GeneratedPictures

    def score(self, part: str, prompts: Sequence[Prompt], progress: Progress) -> tuple[PartScores, list[np.ndarray]]:
        """The scores of a part, and the features of the views (V, D) of each of its pictures."""
        edge = self.pictures.edge(part)
        size = min(edge, self.largest)
        splits = load_splits(self.data_folder, size, progress, cache_pictures="false")
        expected = [prompt.expected for prompt in prompts]
        verdicts: tuple[list[Verdict], ...] = ([], [], [])
        features: tuple[list[np.ndarray], ...] = ([], [], [])
        gradients: tuple[list[Gradients], ...] = ([], [], [])
        for start in track(range(0, len(prompts), _BATCH), f"reading {part.replace('_', ' ')}", progress):
            numbers = range(start, min(start + _BATCH, len(prompts)))
            wanted = expected[start : numbers.stop]
            generated = self.pictures.read(part, numbers, edge)
            real, judged = (
                torch.stack([some[prompts[i].split].image(prompts[i].index) for i in numbers])
                for some in (splits, self.judged)
            )
            for k, (to_judge, to_compare) in enumerate(((generated, generated), (judged, disturbed(real)))):
                verdicts[k].extend(self.judge.classify(to_judge, wanted))
                features[k].extend(view_features(self.extract, to_compare, wanted))
                gradients[k].append(Gradients.of(real if k else resize(generated, size)))
            if start < _AUTOENCODED:
                coded = autoencoded(self.model, real, size)
                features[2].extend(view_features(self.extract, coded, wanted))
                gradients[2].append(Gradients.of(coded))
                verdicts[2].extend(self.judge.classify(coded, wanted))
        twins = self.judge.twins
        nearest = []
        for some in features if len(self.drawings) else ():
            wanted = expected[: len(some)]
            read = [self.drawings.read(own, one) for own, one in zip(some, wanted, strict=True)]
            nearest.append(nearest_scores(read, wanted, twins))
        scores = PartScores(
            generated=accuracies(verdicts[0], expected, twins),
            real=accuracies(verdicts[1], expected, twins),
            autoencoded=accuracies(verdicts[2], expected[: len(verdicts[2])], twins),
            nearest=Nearest(*nearest) if nearest else None,
            sharpness=Sharpness.of(size, *(Gradients.join(some) for some in gradients)),
        )
        return scores, features[0]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = perf_counter()
    yield
    seconds[name] = perf_counter() - started
