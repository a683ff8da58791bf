"""Accuracy of generated pictures: how often they show what their prompt says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ldm.evaluation.judge.classifier import Twins, Verdict
from ldm.evaluation.judge.expected import Expected
from ldm.evaluation.metrics.estimate import Estimate, Rate
from ldm.evaluation.metrics.sharpness import Sharpness

COLUMNS = {
    "concept_top1": "concept top-1",
    "concept_top5": "concept top-5",
    "style": "style at sight",
    "style_of_thing": "style of thing",
    "count": "count",
    "background": "background",
    "both_objects": "both objects",
    "in_place": "both in place",
}


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
class NearestScores:
    """What the nearest real drawings say of pictures; None where it applies to no picture.

    Attributes:
        concept: pictures of one concept whose nearest drawing shows it.
        style: pictures with a style, all of whose things are nearest to drawings in it.
        in_place: pictures of two things, each nearest to its own drawings in the half where the data set draws it.
        closeness: 1 where the thing looks like its drawing in this style, 0 where it is as far from it as the drawings
            of the same thing in other styles are, below 0 beyond: 1 - mean distance / mean distance between styles.
    """

    concept: Rate | None = None
    style: Rate | None = None
    in_place: Rate | None = None
    closeness: Estimate | None = None


@dataclass(frozen=True)
class Nearest:
    """Generated pictures and real ones of the same prompts.

    Attributes:
        generated: the generated pictures.
        real: the real ones, slightly disturbed.
        autoencoded: the first of the real ones, encoded and decoded as the model does: what that alone costs.
    """

    generated: NearestScores
    real: NearestScores
    autoencoded: NearestScores


@dataclass(frozen=True)
class PartScores:
    """One kind of prompts: the generated pictures, and the real pictures of the same prompts, which bound them.

    Attributes:
        generated, real: by the judge.
        autoencoded: of the first few real pictures, only encoded and decoded: above it no denoiser can get.
        nearest: by the nearest real drawings.
        sharpness: beside the real pictures.
    """

    generated: Accuracies
    real: Accuracies
    autoencoded: Accuracies
    nearest: Nearest | None = None
    sharpness: Sharpness | None = None
