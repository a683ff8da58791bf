"""Trains the judge, once per data set, by the same loop as everything else."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.data.pictures.dataset import PictureDataset
from ldm.evaluation.judge.augmentation import AugmentationConfig, augment
from ldm.evaluation.judge.classifier import (
    HEADS,
    UNKNOWN,
    Judge,
    JudgeNetwork,
    Verdict,
    Vocabulary,
    look,
)
from ldm.evaluation.judge.expected import VIEWS, WHOLE, Expected, known_labels
from ldm.evaluation.judge.prompts import load_manifest
from ldm.evaluation.judge.scores import Accuracies, accuracies
from ldm.evaluation.resizing import resize
from ldm.io.disk.files import write_folder
from ldm.progress import Progress, silent, track
from ldm.training.batches.random_streams import Stream
from ldm.training.batches.sample_order import generator_for, mix
from ldm.training.config import LoopConfig
from ldm.training.loop import Trainer
from ldm.training.objectives.base import Batch
from ldm.training.stages.base import Stage

_VERSION = 3
_WHOLES = 0.4  # share of scenes that are looked at as a whole, to count things and name the background


@dataclass(frozen=True)
class JudgeConfig:
    """How the judge is built and trained.

    Attributes:
        size: height and width in pixels at which it looks at pictures and at windows of half their size.
        widths: channels of its levels.
        scene_share: share of composed scenes among the pictures it learns from, where there are any.
        validation_share: share of the training split's icons and scenes that it never sees, to measure how well it
            knows pictures that are new to it.
        label_smoothing: of the concepts.
        augmentation: how real pictures are disturbed.
        loop: the training loop's settings.
    """

    size: int = 64
    widths: tuple[int, ...] = (32, 96, 192, 256)
    scene_share: float = 0.3
    validation_share: float = 0.02
    label_smoothing: float = 0.1
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            samples=160_000,
            batch_size=64,
            learning_rate=3e-3,
            lr_shape="cooldown",
            cooldown=0.3,
            warmup=100,
            weight_decay=0.05,
            ema_half_life=4_000,
            log_every=5_000,
            preview_every=0,
            save_minutes=2,
            keep=1,
            trackers=(),
        )
    )


class JudgeDataset:
    """Both splits' pictures with what their json says about them.

    Args:
        splits: pictures of the training split and, where there is one, of the held-out split.
        vocabulary: turns names into numbers.
        config: gives the shares of scenes and of validation pictures.

    Attributes:
        weights: 0 for validation pictures. Each cell (concept, style) counts once, however many skin tones it has.
        validation: ids of pictures that are never trained on: from the training split only, so that the judge knows
            every held-out cell.
    """

    def __init__(self, splits: Sequence[PictureDataset], vocabulary: Vocabulary, config: JudgeConfig) -> None:
        self._splits = tuple(splits)
        self._ids = [(number, i) for number, split in enumerate(splits) for i in range(len(split))]
        self._numbers = {head: {name: k for k, name in enumerate(vocabulary.names(head))} for head in HEADS}
        uniform = [mix(config.loop.seed, number, i, Stream.JUDGE_VALIDATION) / 2**64 for number, i in self._ids]
        chosen = [
            number == 0 and u < config.validation_share for (number, _), u in zip(self._ids, uniform, strict=True)
        ]
        self.validation = [i for i, is_chosen in enumerate(chosen) if is_chosen]
        self.weights = _weights([self.metadata(i) for i in range(len(self._ids))], config.scene_share)
        self.weights[self.validation] = 0

    def __len__(self) -> int:
        return len(self._ids)

    def metadata(self, index: int) -> dict[str, Any]:
        """The json of picture `index`."""
        number, i = self._ids[index]
        return self._splits[number].metadata(i)

    def picture(self, index: int) -> Tensor:
        """The whole picture: (3, 2S, 2S) in [-1, 1]."""
        number, i = self._ids[index]
        return self._splits[number].image(i)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One view of picture `index`, drawn by `generator`: `image` (3, S, S) in [-1, 1], and its names' numbers.

        By head; `UNKNOWN` where nothing is known: the concept of the whole of a pair, the count of a window. Half of
        the windows are as coarse as those of a picture of S x S.
        """
        meta = self.metadata(index)
        expected = Expected.of(meta)
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        views = VIEWS[expected.arrangement]
        chosen = 0 if len(views) == 1 or draws[0] < _WHOLES else 1 + int(draws[1] * (len(views) - 1))
        place, thing = views[chosen]
        image = self.picture(index)[None]
        size = image.shape[-1] // 2
        if place is not WHOLE and draws[2] < 0.5:
            image = resize(image, size)
        image = resize(look(image, place), size)
        names = {head: found[:1] for head, found in known_labels(meta).items()}
        names["concept"] = () if thing is None else (expected.concepts[thing],)
        if place is not WHOLE:
            names["count"] = ()
        numbers = {head: [self._numbers[head][name] for name in found] for head, found in names.items()}
        return {
            "image": image[0],
            **{head: torch.tensor(found[0] if found else UNKNOWN) for head, found in numbers.items()},
        }


class JudgeObjective:
    """Cross-entropy of every head, and of the style given the concept.

    Args:
        network: the trained module "judge".
        config: label smoothing and augmentation.
    """

    def __init__(self, network: JudgeNetwork, config: JudgeConfig) -> None:
        self.trained_modules: dict[str, nn.Module] = {
            "judge": network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        }
        self._config = config

    def loss(
        self, module_name: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        """Sum of the heads' losses on disturbed pictures, with the share of right concepts."""
        with torch.autocast(batch["image"].device.type, enabled=False):
            images = augment(batch["image"], generators, self._config.augmentation)
        logits = self.trained_modules[module_name](
            images.contiguous(memory_format=torch.channels_last), batch["concept"]
        )
        scalars = {
            head: cross_entropy(
                values.float(),
                batch["style" if head == "style_of_thing" else head],
                self._config.label_smoothing * (head == "concept"),
            )
            for head, values in logits.items()
        }
        scalars["loss"] = torch.stack(list(scalars.values())).sum()
        for head in ("concept", "style"):
            if head in logits:
                scalars[f"right_{head}"] = (logits[head].argmax(1) == batch[head]).float().mean()
        return scalars

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Preview of the judge's training pictures, disturbances included."""
        generators = [generator_for(0, i) for i in range(len(batch["image"]))]
        return {"disturbed": augment(batch["image"].float(), generators, self._config.augmentation) / 2 + 0.5}


@dataclass(frozen=True)
class JudgeRun:
    """The settings of a judge's training, as its output folder keeps them."""

    task: str = "judge"
    output: str = ""
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class JudgeQuality:
    """The judge's accuracy on disturbed real pictures: the most a perfect generator could score.

    Attributes:
        known: on pictures that it was trained on.
        new: on pictures of the training split that it never saw; their (concept, style) cell may be new to it as well.
    """

    known: Accuracies
    new: Accuracies


def trained_judge(
    data_folder: Path, config: JudgeConfig | None = None, progress: Progress = silent
) -> tuple[Judge, JudgeQuality]:
    """The judge of a data set: trained at the first call, kept in `data_folder/.cache/judge-<hash>`.

    An interrupted training goes on where it was.

    Raises:
        FileNotFoundError: no finished data set there.
        KeyboardInterrupt: Ctrl-C during the training; what was learned is kept.
    """
    config = config or JudgeConfig()
    splits = load_splits(data_folder, 2 * config.size, progress)
    folder = data_folder / ".cache" / f"judge-{_key(data_folder, config)}"
    if not (folder / "judge.json").is_file():
        _train(splits, config, folder, progress)
    judge, notes = Judge.load(folder)
    return judge, JudgeQuality(*(Accuracies.from_dict(notes["quality"][name]) for name in ("known", "new")))


def load_splits(
    data_folder: Path, size: int, progress: Progress = silent, cache_pictures: str = "auto"
) -> list[PictureDataset]:
    """The pictures of the training split and, if there is one, of the held-out split."""
    names = ["train", "held_out"] if any((data_folder / "held_out").glob("*.tar")) else ["train"]
    return [PictureDataset(data_folder, size, name, cache_pictures=cache_pictures, progress=progress) for name in names]


def find_twins(splits: Sequence[PictureDataset]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By concept and style, the other concepts whose icon in this style is the same to the pixel."""
    drawings: dict[tuple[str, bytes], set[str]] = {}
    for split in splits:
        for i in range(len(split)):
            meta = split.metadata(i)
            if "objects" not in meta:
                digest = hashlib.sha256(split.image(i).numpy().tobytes()).digest()
                drawings.setdefault((meta.get("style", ""), digest), set()).add(meta["concept"])
    twins: dict[tuple[str, str], set[str]] = {}
    for (style, _), concepts in drawings.items():
        for concept in concepts if len(concepts) > 1 else ():
            twins.setdefault((concept, style), set()).update(concepts - {concept})
    return {drawing: tuple(sorted(others)) for drawing, others in sorted(twins.items())}


def _train(splits: Sequence[PictureDataset], config: JudgeConfig, folder: Path, progress: Progress) -> None:
    vocabulary = Vocabulary.of(split.metadata(i) for split in splits for i in range(len(split)))
    twins = find_twins(splits)
    dataset = JudgeDataset(splits, vocabulary, config)
    torch.manual_seed(config.loop.seed)
    network = JudgeNetwork(config.widths, vocabulary)
    workplace = folder.with_name(f"{folder.name}-training")

    def export(folder: Path, modules: Mapping[str, nn.Module]) -> None:
        averaged = modules["judge"]
        assert isinstance(averaged, JudgeNetwork)
        Judge(averaged, vocabulary, config.size, config.widths, twins).save(folder, {})

    stage = Stage(JudgeObjective(network, config), dataset, dataset, export)
    trainer = Trainer(stage, JudgeRun(output=str(workplace), loop=config.loop))
    trainer.fit()
    if trainer.interrupted:
        raise KeyboardInterrupt(f"the judge has seen {trainer.samples_seen} of {config.loop.samples} samples")
    if trainer.divergence:
        raise ArithmeticError(f"the judge's training was lost: {trainer.divergence}")
    judge, _ = Judge.load(workplace / "export")
    known = [
        i
        for i in np.flatnonzero(dataset.weights).tolist()
        if mix(i, Stream.JUDGE_CHECK) / 2**64 < config.validation_share
    ]
    quality = JudgeQuality(
        known=_checked(judge, dataset, known, config, progress),
        new=_checked(judge, dataset, dataset.validation, config, progress),
    )
    with write_folder(folder) as temporary:
        judge.save(temporary, {"quality": asdict(quality), "config": asdict(config)})
        shutil.copy(workplace / "stats.jsonl", temporary)
    shutil.rmtree(workplace)


def _checked(
    judge: Judge, dataset: JudgeDataset, ids: Sequence[int], config: JudgeConfig, progress: Progress
) -> Accuracies:
    """The judge's accuracy on the real pictures `ids`, disturbed at the size at which it looks at them."""
    verdicts: list[Verdict] = []
    expected = [Expected.of(dataset.metadata(i)) for i in ids]
    batch = config.loop.batch_size
    for start in track(range(0, len(ids), batch), "checking the judge", progress):
        part = ids[start : start + batch]
        generators = [generator_for(config.loop.seed, i, Stream.JUDGE_CHECK) for i in part]
        images = resize(torch.stack([dataset.picture(i) for i in part]), config.size)
        verdicts += judge.classify(augment(images, generators, config.augmentation), expected[start : start + batch])
    return accuracies(verdicts, expected, judge.twins)


def cross_entropy(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (B, K) with the names target (B,); those of `UNKNOWN` count as 0.

    Smoothing takes a share of the target and spreads it evenly (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    total = F.cross_entropy(logits, target, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="sum")
    return total / len(target)


def _weights(metas: Sequence[dict[str, Any]], scene_share: float) -> np.ndarray:
    scenes = np.array(["objects" in meta for meta in metas])
    cells = [(meta["concept"], meta.get("style")) for meta in metas]
    sizes: dict[tuple[Any, bool], int] = {}
    for key in zip(cells, scenes.tolist(), strict=True):
        sizes[key] = sizes.get(key, 0) + 1
    icon_weights = np.array([1 / sizes[key] for key in zip(cells, scenes.tolist(), strict=True)])
    weights = np.where(scenes, 0.0, icon_weights)
    if scenes.any() and not scenes.all():
        share = scene_share / (1 - scene_share)
        weights[scenes] = share * weights.sum() / scenes.sum()
    elif scenes.all():
        weights[:] = 1.0
    return weights


def _key(data_folder: Path, config: JudgeConfig) -> str:
    """Belongs to the pictures' content, so that a judge can be carried to the same data set elsewhere.

    Settings at their defaults are left out: a setting that a later version has does not make another judge.
    """
    settings = _changed(asdict(config), asdict(JudgeConfig()))
    text = json.dumps([_VERSION, settings, load_manifest(data_folder)["shards"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that differ from their defaults, in nested ones too."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = _changed(value, defaults[name])
            if value:
                found[name] = value
        elif value != defaults[name]:
            found[name] = value
    return found
