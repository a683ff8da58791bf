"""Tables of an evaluation: for a terminal of 80 columns, and as Markdown for a model card."""

from ldm.evaluation.judge.scores import COLUMNS, NearestScores, PartScores, Scores
from ldm.evaluation.tables import (
    NOTHING,
    SHARPNESS,
    Row,
    estimate_cell,
    line,
    measures,
    per_cent,
    rate_cell,
    seconds_line,
    sharpness_cells,
    wrapped,
)


def terminal(scores: Scores) -> str:
    """The scores as plain text: a column for each kind of prompts, lines of at most 80 characters."""
    names = [name.replace("_", " ") for name in scores.parts]
    above = ["composed" if name.startswith("composed") else "" for name in names]
    heads = [("", above)] if any(above) else []
    heads.append(("prompts", [name.removeprefix("composed ") for name in names]))
    heads.append(("N", [str(part.generated.pictures) for part in scores.parts.values()]))
    lines = [*map(wrapped, _about(scores)), "", *map(line, heads)]
    for title, rows in _groups(scores):
        lines += ["", title, *(line((f" {label}", cells)) for label, cells in rows)]
    others = [*_judge_itself(scores), *measures(scores.distance, scores.fidelity), *_times(scores)]
    return "\n".join([*lines, "", *map(wrapped, others), f"Pictures and scores: {scores.folder}"]) + "\n"


def markdown(scores: Scores) -> str:
    """The same as Markdown tables, without times."""
    heads = [name.replace("_", " ") for name in scores.parts]
    lines = [*_about(scores)]
    for title, rows in _groups(scores):
        lines += ["", f"| {title} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        lines.append(f"| N | {' | '.join(str(part.generated.pictures) for part in scores.parts.values())} |")
        lines += [f"| {label.strip()} | {' | '.join(cells)} |" for label, cells in rows]
    others = [*_judge_itself(scores), *measures(scores.distance, scores.fidelity)]
    return "\n".join([*lines, "", *(f"- {line}" for line in others)]) + "\n"


def _about(scores: Scores) -> list[str]:
    settings = f"{scores.steps} steps, guidance {scores.guidance_scale:g}, seed {scores.seed}"
    lines = [f"{scores.model}: {settings}."]
    if scores.quick:
        lines.append("Quick: few prompts, wide errors; no Frechet distance, which needs hundreds.")
    return [*lines, "Each cell: generated ± standard error (real pictures of the same prompts)."]


def _groups(scores: Scores) -> list[tuple[str, list[Row]]]:
    """Titles with their rows; a row that applies to no kind of prompts is left out."""
    nearest = f"Nearest of {scores.drawings} real drawings, in % (real ones: shifted by a pixel, JPEG)"
    sizes = {part.sharpness.size for part in scores.parts.values() if part.sharpness}
    sharpness = f"Sharpness at {', '.join(map(str, sorted(sizes)))} px"
    groups = (("Judge, in %", _judged), (nearest, _nearest), (sharpness, _sharpness))
    found = []
    for title, cells_of in groups:
        columns = [cells_of(part) for part in scores.parts.values()]
        rows = [(label, [column[label] for column in columns]) for label in columns[0]]
        if rows := [row for row in rows if set(row[1]) != {NOTHING}]:
            found.append((title, rows))
    return found


def _judged(part: PartScores) -> dict[str, str]:
    return {
        label: rate_cell(getattr(part.generated, name), getattr(part.real, name)) for name, label in COLUMNS.items()
    }


def _nearest(part: PartScores) -> dict[str, str]:
    generated, real = (part.nearest.generated, part.nearest.real) if part.nearest else (NearestScores(),) * 2
    return {
        "concept": rate_cell(generated.concept, real.concept),
        "style": rate_cell(generated.style, real.style),
        "both in place": rate_cell(generated.in_place, real.in_place),
        "closeness": estimate_cell(generated.closeness),
        " real ones'": estimate_cell(real.closeness),
    }


def _sharpness(part: PartScores) -> dict[str, str]:
    return dict.fromkeys(SHARPNESS, NOTHING) if part.sharpness is None else sharpness_cells(part.sharpness)


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
