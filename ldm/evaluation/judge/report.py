"""All that an evaluation found, as JSON, as a table for 80 columns, and as Markdown for a model card."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ldm.evaluation.judge.scores import COLUMNS, Accuracies, PartScores
from ldm.evaluation.metrics.fidelity import Fidelity
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.tables import (
    NOTHING,
    Group,
    estimate_cell,
    group_lines,
    line,
    measures,
    per_cent,
    rate_cell,
    seconds_line,
    sharpness_groups,
    wrapped,
)

_ENCODED_AND_DECODED = "The same for real pictures that are only encoded and decoded"  # of the group above it


@dataclass(frozen=True)
class Scores:
    """Everything that `evaluate` measured.

    Attributes:
        parts: by `ldm.evaluation.judge.prompts.PARTS`; parts without prompts are absent.
        judge_known, judge_new: the judge's accuracy on disturbed real pictures that it was, and was not, trained on.
        distance: of the seen prompts' pictures; None where there are fewer than two, or for a quick reading.
        fidelity: None without held-out pictures.
        model: its name.
        steps, guidance_scale, seed: of the generated pictures.
        seconds_per_picture: of those generated in this call; None if all were there already.
        folder: where the generated pictures are.
        quick: whether it was a quick reading.
        drawings: how many real drawings the nearest is one of.
        prepared: seconds of this call for what is kept beside the data set, by what was prepared.
        seconds: of this call by what else was done.
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
    quick: bool = False
    drawings: int = 0
    prepared: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it as nested dictionaries, ready for JSON."""
        return asdict(self)

    def to_table(self) -> str:
        """The scores as plain text: a column for each kind of prompts, lines of at most 80 characters."""
        names = [name.replace("_", " ") for name in self.parts]
        above = ["composed" if name.startswith("composed") else "" for name in names]
        heads = [("", above)] if any(above) else []
        heads.append(("prompts", [name.removeprefix("composed ") for name in names]))
        heads.append(("N", [str(part.generated.pictures) for part in self.parts.values()]))
        lines = [*map(wrapped, _about(self)), "", *map(line, heads)]
        for group in _groups(self):
            lines += group_lines(group)
        others = [*_judge_itself(self), *measures(self.distance, self.fidelity), *_times(self)]
        return "\n".join([*lines, "", *map(wrapped, others), f"Pictures and scores: {self.folder}"]) + "\n"

    def to_markdown(self) -> str:
        """The same as Markdown tables, without times."""
        heads = [name.replace("_", " ") for name in self.parts]
        lines = [*_about(self)]
        for title, rows in _groups(self):
            lines += ["", f"| {title} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
            lines.append(f"| N | {' | '.join(str(part.generated.pictures) for part in self.parts.values())} |")
            lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows if set(cells) != {NOTHING}]
        others = [*_judge_itself(self), *measures(self.distance, self.fidelity)]
        return "\n".join([*lines, "", *(f"- {line}" for line in others)]) + "\n"


def _about(scores: Scores) -> list[str]:
    settings = f"{scores.steps} steps, guidance {scores.guidance_scale:g}, seed {scores.seed}"
    lines = [f"{scores.model}: {settings}."]
    if scores.quick:
        lines.append("Quick: few prompts, wide errors; no Frechet distance, which needs hundreds.")
    return [*lines, "Each cell: generated ± standard error (real pictures of the same prompts)."]


def _groups(scores: Scores) -> list[Group]:
    parts = list(scores.parts.values())
    judged = [
        (label, [rate_cell(getattr(part.generated, name), getattr(part.real, name)) for part in parts])
        for name, label in COLUMNS.items()
    ]
    groups: list[Group] = [("Judge, in %", judged)]
    coded = [
        (label, [rate_cell(getattr(part.autoencoded, name), getattr(part.real, name)) for part in parts])
        for name, label in COLUMNS.items()
    ]
    groups.append((_ENCODED_AND_DECODED, coded))
    nearest = [part.nearest for part in parts if part.nearest]
    if len(nearest) == len(parts):
        title = f"Nearest of {scores.drawings} real drawings, in % (real ones: shifted by a pixel, JPEG)"
        names = {"concept": "concept", "style": "style", "in_place": "both in place"}
        rows = [
            (label, [rate_cell(getattr(one.generated, name), getattr(one.real, name)) for one in nearest])
            for name, label in names.items()
        ]
        closeness = [
            ("generated", [estimate_cell(one.generated.closeness) for one in nearest]),
            ("autoencoded", [estimate_cell(one.autoencoded.closeness) for one in nearest]),
            ("real, shifted", [estimate_cell(one.real.closeness) for one in nearest]),
        ]
        coded = [
            (label, [rate_cell(getattr(one.autoencoded, name), getattr(one.real, name)) for one in nearest])
            for name, label in names.items()
        ]
        groups += [(title, rows), (_ENCODED_AND_DECODED, coded)]
        groups += [("Closeness: 1 is the drawing itself, 0 as far as another style's", closeness)]
    sharpness = [part.sharpness for part in parts if part.sharpness]
    return groups + (sharpness_groups(sharpness) if len(sharpness) == len(parts) else [])


def _judge_itself(scores: Scores) -> list[str]:
    """How far the judge can be trusted, in a line."""
    known, new = scores.judge_known, scores.judge_new
    shown = [
        f"{title} {', '.join(per_cent(one.share) for one in rates)} %"
        for title, rates in (
            (title, [one for one in (getattr(known, name), getattr(new, name)) if one])
            for name, title in (("concept_top1", "concept"), ("style", "style"))
        )
        if rates
    ]
    return [f"Judge on disturbed real pictures it knows, and new ones: {'; '.join(shown)}"] if shown else []


def _times(scores: Scores) -> list[str]:
    return [*seconds_line("Prepared, once for a data set", scores.prepared), *seconds_line("Time", scores.seconds)]
