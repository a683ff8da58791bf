"""Pieces of the tables that `ldm eval` prints in a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

from ldm.evaluation.metrics.estimate import Estimate, Rate
from ldm.evaluation.metrics.fidelity import Fidelity
from ldm.evaluation.metrics.frechet import Distance
from ldm.evaluation.metrics.sharpness import Sharpness

COLUMNS_OF_TERMINAL = 80
NOTHING = "–"
_LABEL, _CELL = 16, 16
_DECIMALS_FROM = 100  # pictures: the standard error of fewer is several per cent
Row = tuple[str, list[str]]
Group = tuple[str, list[Row]]


def line(row: Row) -> str:
    """A row of a table: its label and its cells."""
    label, cells = row
    return (label.ljust(_LABEL) + "".join(cell.ljust(_CELL) for cell in cells)).rstrip()


def group_lines(group: Group) -> list[str]:
    """A title and its rows, after an empty line; a row without any value is left out, and so is a group of such."""
    title, rows = group
    kept = [line((f" {label}", cells)) for label, cells in rows if set(cells) != {NOTHING}]
    return ["", title, *kept] if kept else []


def wrapped(line: str) -> str:
    """A line of prose in as many as a terminal needs."""
    return textwrap.fill(line, COLUMNS_OF_TERMINAL, subsequent_indent="  ")


def estimate_cell(estimate: Estimate | None, form: str = ".2f") -> str:
    """A value and its standard error."""
    if estimate is None:
        return NOTHING
    error = "" if estimate.error is None else f"±{estimate.error:{form.removeprefix('+')}}"
    return f"{estimate.value:{form}}{error}"


def rate_cell(generated: Rate | None, real: Rate | None) -> str:
    """A share and its standard error in %, the real pictures' in brackets; without decimals of few pictures."""
    if generated is None:
        return NOTHING
    digits = 1 if generated.n >= _DECIMALS_FROM else 0
    shown = NOTHING if real is None else per_cent(real.share, digits)
    return f"{per_cent(generated.share, digits)}±{100 * generated.error:.{digits}f} ({shown})"


def per_cent(share: float, digits: int = 1) -> str:
    """A share in %."""
    return "100" if share == 1 else f"{100 * share:.{digits}f}"


def sharpness_groups(columns: Sequence[Sharpness]) -> list[Group]:
    """Edge and blotch of several kinds of prompts, a column for each, beside autoencoded and real pictures."""
    sizes = ", ".join(map(str, sorted({one.size for one in columns})))
    edge = [
        ("generated", [estimate_cell(one.edge) for one in columns]),
        ("autoencoded", [estimate_cell(one.autoencoded_edge) for one in columns]),
        ("real, steepest", [f"{one.real_steepest:.3f}" for one in columns]),
    ]
    blotch = [
        ("generated", [estimate_cell(one.blotch, "+.1f") for one in columns]),
        ("autoencoded", [estimate_cell(one.autoencoded_blotch, "+.1f") for one in columns]),
        ("real, weak %", [f"{one.real_weak:.1f}" for one in columns]),
    ]
    return [
        (f"Edge at {sizes} px: 1 is as sharp as the real pictures", edge),
        (f"Blotch at {sizes} px, in percentage points: 0 is as clean as the real pictures", blotch),
    ]


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


def seconds_line(title: str, seconds: dict[str, float]) -> list[str]:
    """Where the time went, in one line if there is something to say."""
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if value >= 0.5)
    return [f"{title}: {spent}"] if spent else []
