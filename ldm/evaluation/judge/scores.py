"""Accuracy of generated pictures: how often they show what their prompt says; files and reports of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from ldm.evaluation.judge.classifier import Twins, Verdict
from ldm.evaluation.judge.expected import Expected

COLUMNS = {
    "concept_top1": "concept top-1",
    "concept_top5": "concept top-5",
    "style": "style at sight",
    "style_of_thing": "style of the thing",
    "count": "count",
    "background": "background",
    "both_objects": "both objects",
    "in_place": "each in its place",
}


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] and the number of pictures that it is a share of."""

    share: float
    n: int

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Rate | None":
        """The share of true ones; None of none at all."""
        listed = list(hits)
        return cls(sum(listed) / len(listed), len(listed)) if listed else None

    @property
    def error(self) -> float:
        """Standard error of the share (Wald)."""
        return (self.share * (1 - self.share) / self.n) ** 0.5


@dataclass(frozen=True)
class Accuracies:
    """How many pictures the judge agrees with; None where it applies to no picture.

    Attributes:
        pictures: how many in all.
        concept_top1, concept_top5: pictures of one concept whose name is the judge's first, or among its first five.
        style: pictures with a style; which of all styles it is, found without the true concept.
        style_of_thing: the same with the true concept given: whether the picture is more like
            this thing's drawing in this style than like its drawings in the other styles.
        count: pictures of several of one thing.
        background: pictures on a coloured background.
        both_objects: pictures of two things: of one half of the picture the one, of the other half the other is among
            the judge's first five.
        in_place: the same, each in the half where the data set draws it.
    """

    pictures: int
    concept_top1: Rate | None = None
    concept_top5: Rate | None = None
    style: Rate | None = None
    style_of_thing: Rate | None = None
    count: Rate | None = None
    background: Rate | None = None
    both_objects: Rate | None = None
    in_place: Rate | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Accuracies":
        """The inverse of `dataclasses.asdict`."""
        rates = {name: value if value is None else Rate(**value) for name, value in content.items() if name in COLUMNS}
        return cls(pictures=content["pictures"], **rates)


def accuracies(
    verdicts: Sequence[Verdict], expected: Sequence[Expected], twins: Twins = MappingProxyType({})
) -> Accuracies:
    """How often the verdicts agree with what was wanted; a twin's name is as good as the concept's own.

    Raises:
        ValueError: there are not as many verdicts as pictures.
    """
    if len(verdicts) != len(expected):
        raise ValueError(f"{len(verdicts)} verdicts for {len(expected)} pictures")
    both = list(zip(verdicts, expected, strict=True))
    named = [
        (v.concepts, [{concept, *twins.get((concept, w.style or ""), ())} for concept in w.concepts])
        for v, w in both
        if all(v.concepts)
    ]
    single = [(found[0], right[0]) for found, right in named if len(right) == 1]
    pairs = [(found, right) for found, right in named if len(right) == 2]
    return Accuracies(
        pictures=len(both),
        concept_top1=Rate.of(found[0] in right for found, right in single),
        concept_top5=Rate.of(not right.isdisjoint(found) for found, right in single),
        style=Rate.of(v.style[0] == w.style for v, w in both if w.style and v.style),
        style_of_thing=Rate.of(v.style_of_thing[0] == w.style for v, w in both if w.style and v.style_of_thing),
        count=Rate.of(v.count[0] == w.count for v, w in both if w.count and v.count),
        background=Rate.of(v.background[0] == w.background for v, w in both if w.background and v.background),
        both_objects=Rate.of(_found(found, right) or _found(found[::-1], right) for found, right in pairs),
        in_place=Rate.of(_found(found, right) for found, right in pairs),
    )


def _found(found: Sequence[Sequence[str]], right: Sequence[set[str]]) -> bool:
    return not any(one.isdisjoint(names) for names, one in zip(found, right, strict=True))


@dataclass(frozen=True)
class PartScores:
    """One kind of prompts: the generated pictures, and the real pictures of the same prompts, which bound them."""

    generated: Accuracies
    real: Accuracies


@dataclass(frozen=True)
class Fidelity:
    """PSNR in dB, mean over held-out pictures, of the parts that need no prompt.

    Attributes:
        pictures: how many.
        autoencoder: by the pictures' size in pixels.
        upscaler, bicubic: of the upscaler and of bicubic, on what the autoencoder makes of small pictures, against the
            large ones; None without an upscaler, or without pictures large enough.
    """

    pictures: int
    autoencoder: dict[str, float]
    upscaler: float | None = None
    bicubic: float | None = None


@dataclass(frozen=True)
class Distance:
    """Frechet distances on EfficientNet-lite0 features.

    Attributes:
        generated: generated pictures of seen prompts against `reference` real ones.
        real: as many other real pictures against the same, the least that this number of pictures can give.
        pictures: how many generated, and how many other real ones.
        reference: how many real pictures both are compared with.
        size: height and width in pixels at which pictures were compared.
    """

    generated: float
    real: float
    pictures: int
    reference: int
    size: int


@dataclass(frozen=True)
class Scores:
    """Everything that `evaluate` measured.

    Attributes:
        parts: by `ldm.evaluation.judge.prompts.PARTS`; parts without prompts are absent.
        judge_known, judge_new: the judge's accuracy on disturbed real pictures that it was, and was not, trained on.
        distance: None where there are fewer than two seen prompts.
        fidelity: None without held-out pictures.
        model: its name.
        steps, guidance_scale, seed: of the generated pictures.
        seconds_per_picture: of those generated in this call; None if all were there already.
        folder: where the generated pictures are.
    """

    parts: dict[str, PartScores]
    judge_known: Accuracies
    judge_new: Accuracies
    distance: Distance | None
    fidelity: Fidelity | None
    model: str
    steps: int
    guidance_scale: float
    seed: int
    seconds_per_picture: float | None
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """All of it as nested dictionaries, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Tables for a model card: per cent and standard error of generated pictures, the real ones' in brackets."""
        lines = [
            f"{self.model}: {self.steps} steps, guidance {self.guidance_scale:g}, seed {self.seed}.",
            "Each cell: generated pictures ± standard error (real pictures of the same prompts), in %.",
            "",
            "| prompts | N | " + " | ".join(COLUMNS.values()) + " |",
            "|---|" + "---|" * (1 + len(COLUMNS)),
        ]
        for name, part in self.parts.items():
            cells = [_cell(part, column) for column in COLUMNS]
            lines.append(f"| {name.replace('_', ' ')} | {part.generated.pictures} | " + " | ".join(cells) + " |")
        for title, own in (
            ("judge on disturbed real pictures it knows", self.judge_known),
            ("judge on disturbed real pictures new to it", self.judge_new),
        ):
            cells = [_per_cent(getattr(own, column)) for column in COLUMNS]
            lines.append(f"| {title} | {own.pictures} | " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", *self._measures()]) + "\n"

    def _measures(self) -> list[str]:
        lines = ["| measure | value |", "|---|---|"]
        if self.distance:
            distance = self.distance
            title = f"Frechet distance, EfficientNet-lite0 at {distance.size} px, N = {distance.pictures}"
            lines.append(f"| {title} against {distance.reference} real | {distance.generated:.1f} |")
            lines.append(f"| the same for {distance.pictures} other real pictures | {distance.real:.1f} |")
        if self.fidelity:
            fidelity = self.fidelity
            for size, value in fidelity.autoencoder.items():
                lines.append(
                    f"| autoencoder PSNR at {size} px, {fidelity.pictures} held-out pictures | {value:.2f} dB |"
                )
            if fidelity.upscaler is not None and fidelity.bicubic is not None:
                lines.append(f"| upscaler PSNR (bicubic) | {fidelity.upscaler:.2f} dB ({fidelity.bicubic:.2f} dB) |")
        if self.seconds_per_picture is not None:
            lines.append(f"| seconds per picture, in batches | {self.seconds_per_picture:.2f} |")
        return lines


def _cell(part: PartScores, column: str) -> str:
    rate = getattr(part.generated, column)
    if rate is None:
        return "–"
    return f"{100 * rate.share:.1f} ± {100 * rate.error:.1f} ({_per_cent(getattr(part.real, column))})"


def _per_cent(rate: Rate | None) -> str:
    return "–" if rate is None else f"{100 * rate.share:.1f}"
