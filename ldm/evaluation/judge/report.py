"""Tables of an evaluation: for a terminal of 80 columns, and as Markdown for a model card."""

import textwrap

from ldm.evaluation.judge.scores import COLUMNS, NearestScores, PartScores, Rate, Scores
from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.metrics.fidelity import Fidelity
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.metrics.sharpness import Sharpness

_NOTHING = "–"
COLUMNS_OF_TERMINAL = 80
_LABEL, _CELL = 16, 16
_DECIMALS_FROM = 100  # pictures: the standard error of fewer is several per cent
SHARPNESS = ("edge", " autoencoded", " real steepest", "blotch, points", " autoencoded ", " real weak, %")
Row = tuple[str, list[str]]


def terminal(scores: Scores) -> str:
    """The scores as plain text: a column for each kind of prompts, lines of at most 80 characters."""
    names = [name.replace("_", " ") for name in scores.parts]
    above = ["composed" if name.startswith("composed") else "" for name in names]
    heads = [("", above)] if any(above) else []
    heads.append(("prompts", [name.removeprefix("composed ") for name in names]))
    heads.append(("N", [str(part.generated.pictures) for part in scores.parts.values()]))
    lines = [*map(wrapped, _about(scores)), "", *map(_line, heads)]
    for title, rows in _groups(scores):
        lines += ["", title, *(_line((f" {label}", cells)) for label, cells in rows)]
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


def measures(distance: Distance | None, fidelity: Fidelity | None) -> list[str]:
    """Lines on what needs many pictures, or no prompt at all."""
    lines = []
    if distance:
        lines.append(f"Frechet distance, EfficientNet-lite0 at {distance.size} px, N = {distance.pictures}")
        lines[-1] += f" against {distance.reference} real: {distance.generated:.1f}"
        lines.append(f"Frechet distance of {distance.pictures} other real pictures: {distance.real:.1f}")
    if fidelity:
        values = ", ".join(f"{value:.2f} dB at {size} px" for size, value in fidelity.autoencoder.items())
        lines.append(f"Autoencoder PSNR, {fidelity.pictures} held-out pictures: {values}")
        if fidelity.upscaler is not None:
            lines.append(f"Upscaler PSNR: {fidelity.upscaler:.2f} dB (bicubic {fidelity.bicubic:.2f} dB)")
    return lines


def wrapped(line: str) -> str:
    """A line of prose in as many as a terminal needs."""
    return textwrap.fill(line, COLUMNS_OF_TERMINAL, subsequent_indent="  ")


def estimate_cell(estimate: Estimate | None, form: str = ".2f") -> str:
    """A value and its standard error."""
    if estimate is None:
        return _NOTHING
    error = "" if estimate.error is None else f"±{estimate.error:{form.removeprefix('+')}}"
    return f"{estimate.value:{form}}{error}"


def seconds_line(title: str, seconds: dict[str, float]) -> list[str]:
    """Where the time went, in one line if there is something to say."""
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5)
    return [f"{title}: {spent}"] if spent else []


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
        if rows := [row for row in rows if set(row[1]) != {_NOTHING}]:
            found.append((title, rows))
    return found


def _judged(part: PartScores) -> dict[str, str]:
    return {
        label: _rate_cell(getattr(part.generated, name), getattr(part.real, name)) for name, label in COLUMNS.items()
    }


def _nearest(part: PartScores) -> dict[str, str]:
    generated, real = (part.nearest.generated, part.nearest.real) if part.nearest else (NearestScores(),) * 2
    return {
        "concept": _rate_cell(generated.concept, real.concept),
        "style": _rate_cell(generated.style, real.style),
        "both in place": _rate_cell(generated.in_place, real.in_place),
        "closeness": estimate_cell(generated.closeness),
        " real ones'": estimate_cell(real.closeness),
    }


def _sharpness(part: PartScores) -> dict[str, str]:
    return dict.fromkeys(SHARPNESS, _NOTHING) if part.sharpness is None else sharpness_cells(part.sharpness)


def sharpness_cells(sharpness: Sharpness) -> dict[str, str]:
    """By `SHARPNESS`, the values with their standard errors."""
    values = (
        estimate_cell(sharpness.edge),
        estimate_cell(sharpness.autoencoded_edge),
        f"{sharpness.real_steepest:.3f}",
        estimate_cell(sharpness.blotch, "+.1f"),
        estimate_cell(sharpness.autoencoded_blotch, "+.1f"),
        f"{sharpness.real_weak:.1f}",
    )
    return dict(zip(SHARPNESS, values, strict=True))


def _rate_cell(generated: Rate | None, real: Rate | None) -> str:
    if generated is None:
        return _NOTHING
    digits = 1 if generated.n >= _DECIMALS_FROM else 0
    shown = _NOTHING if real is None else _per_cent(real.share, digits)
    return f"{_per_cent(generated.share, digits)}±{100 * generated.error:.{digits}f} ({shown})"


def _per_cent(share: float, digits: int = 1) -> str:
    return "100" if share == 1 else f"{100 * share:.{digits}f}"


def _judge_itself(scores: Scores) -> list[str]:
    """How far the judge can be trusted, in a line."""
    known, new = scores.judge_known, scores.judge_new
    shown = [
        f"{title} {', '.join(_per_cent(one.share) for one in rates)} %"
        for title, rates in (
            (title, [one for one in (getattr(known, name), getattr(new, name)) if one])
            for name, title in (("concept_top1", "concept"), ("style", "style"))
        )
        if rates
    ]
    return [f"Judge on disturbed real pictures it knows, and new ones: {'; '.join(shown)}"] if shown else []


def _line(row: Row) -> str:
    label, cells = row
    return (label.ljust(_LABEL) + "".join(cell.ljust(_CELL) for cell in cells)).rstrip()


def _times(scores: Scores) -> list[str]:
    return [*seconds_line("Prepared, once for a data set", scores.prepared), *seconds_line("Time", scores.seconds)]
