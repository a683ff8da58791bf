"""`ldm eval restore`: every method on every damage, with means and standard errors, as a table, JSON and a sheet."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoencoder.training.perceptual import PerceptualDistance
from ldm.data.sources.open_source import HELD_OUT
from ldm.engine.placement import processor_name
from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.restoration.damages import DAMAGES, Damage, Damaged
from ldm.evaluation.restoration.filling import has_opencv
from ldm.evaluation.restoration.filters import bicubic
from ldm.evaluation.restoration.methods import METHODS, NEED_OPENCV, Method
from ldm.evaluation.restoration.pictures import SIZE, part_of, read_pictures
from ldm.evaluation.restoration.plot import NEEDS, can_plot, write_plot
from ldm.evaluation.restoration.row import Row
from ldm.evaluation.restoration.settings import BEST, TUNED_ON
from ldm.evaluation.restoration.sheet import write_sheet
from ldm.evaluation.restoration.similarity import psnr, ssim
from ldm.evaluation.restoration.summary import CEILING, DEBIASED, INPUT, summaries
from ldm.evaluation.restoration.tuning import restored
from ldm.evaluation.tables import estimate_cell
from ldm.io.disk.files import write_json
from ldm.naming import look_up
from ldm.progress import Progress, silent, track

_FULL, _QUICK = 200, 4
_LABEL, _CELL = 28, 13


@dataclass(frozen=True)
class RestorationScores:
    """Everything that `restoration_bench` measured.

    Attributes:
        rows: in the order of damages and methods.
        pictures: how many.
        about: where they and the numbers come from: data, fingerprint, seed, versions, processor.
        left_out: methods that could not run, with the reason.
        folder: of `scores.json`, the sheet and the plot.
    """

    rows: tuple[Row, ...]
    pictures: int
    about: Mapping[str, Any]
    left_out: tuple[str, ...]
    folder: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "RestorationScores":
        """The inverse of `to_dict`."""
        measures = ("psnr", "ssim", "perceptual")
        rows = [Row(**{**row, **{name: Estimate(**row[name]) for name in measures}}) for row in content["rows"]]
        return cls(**{**content, "rows": tuple(rows), "left_out": tuple(content["left_out"])})

    def to_dict(self) -> dict[str, Any]:
        """All of it as nested dictionaries, ready for JSON."""
        return asdict(self)

    @property
    def source(self) -> str:
        """Which pictures, in a few words."""
        part = "held-out pictures" if self.about["part"] == HELD_OUT else "pictures"
        return f"{self.pictures} {part} of {self.about['data']}, {SIZE} px on white, 8 bits"

    def to_table(self) -> str:
        """A table of at most 80 columns."""
        heads = ("PSNR, dB", "SSIM", "perceptual", "seconds")
        lines = [
            f"{self.source}. Value ± standard error.",
            *(f"left out: {reason}" for reason in self.left_out),
            *([] if can_plot() else [NEEDS]),
        ]
        for damage in dict.fromkeys(row.damage for row in self.rows):
            inside = " (PSNR inside)" if DAMAGES[damage].hole else ""
            lines += ["", f"{damage}{inside}".ljust(_LABEL) + "".join(head.ljust(_CELL) for head in heads).rstrip()]
            for row in self.rows:
                if row.damage == damage:
                    lines.append((f" {row.method}".ljust(_LABEL) + "".join(map(_padded, _cells(row)))).rstrip())
        return "\n".join([*lines, "", f"Scores and pictures: {self.folder}"]) + "\n"

    def to_markdown(self) -> str:
        """The same for a page, the best PSNR of each damage in bold."""
        lines = ["| damage | method | PSNR, dB | SSIM | perceptual | seconds |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            best = max(other.psnr.value for other in self.rows if other.damage == row.damage)
            cells = _cells(row)
            cells[0] = f"**{cells[0]}**" if row.psnr.value == best else cells[0]
            lines.append(f"| {' | '.join([row.damage, row.method, *cells])} |")
        return "\n".join(lines) + "\n"


def restoration_bench(
    data: str,
    folder: Path,
    n: int | None = None,
    damages: Sequence[str] = (),
    seed: int = 0,
    quick: bool = False,
    methods: Mapping[str, Method] = METHODS,
    progress: Progress = silent,
    autoencoded: Callable[[Tensor], Tensor] | None = None,
) -> RestorationScores:
    """Spoil pictures in every way, let every method that is for it restore them, and measure how near they come.

    Args:
        data: a folder of pictures or a data set, whose held-out part is taken where it has one.
        folder: where `scores.json`, `table.md`, `sheet.png` and, with matplotlib, `plot.png` go.
        n: how many pictures; None for 200, or 4 of a quick reading. There may be fewer.
        damages: names of those that are measured; none for all.
        seed: chooses pictures and noise.
        quick: few pictures.
        methods: by name; a model is one more entry.
        progress: of everything.
        autoencoded: of a model: encodes and decodes the truth, for a row that says what its latents can hold.

    Raises:
        ValueError: an argument is out of range, or a name is unknown.
        FileNotFoundError: there are no pictures.
    """
    if n is not None and n < 1:
        raise ValueError(f"n={n} must be at least 1")
    chosen = [look_up("damage", name, DAMAGES) for name in damages] or list(DAMAGES.values())
    pictures, fingerprint = read_pictures(data, part_of(data), n or (_QUICK if quick else _FULL), seed, progress)
    able = {name: method for name, method in methods.items() if has_opencv() or name not in NEED_OPENCV}
    distance = PerceptualDistance().eval()
    rows: list[Row] = []
    sheet: list[tuple[str, list[tuple[str, Tensor]]]] = []
    for damage in track(chosen, "damages", progress):
        first: dict[str, Tensor] = {}
        rows += _measure(damage, pictures, seed, able, distance, first, progress)
        if autoencoded is not None:
            damaged = [damage(picture, number, seed) for number, picture in enumerate(pictures)]
            seen = [autoencoded(picture) for picture in pictures]
            rows.append(_row(damage, CEILING, damaged, pictures, seen, None, {}, distance, first))
        sheet.append((damage.name, [*first.items(), ("truth", pictures[0])]))
    missing = [name for name in methods if name not in able]
    scores = RestorationScores(
        rows=tuple(rows),
        pictures=len(pictures),
        about=_provenance(data, fingerprint, seed),
        left_out=tuple(f"{name}: OpenCV is not installed; pip install 'ldm[restoration]'" for name in missing),
        folder=str(folder),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_sheet(folder / "sheet.png", sheet)
    if can_plot():
        write_plot(folder / "plot.png", summaries(scores.rows), scores.source)
    (folder / "table.md").write_text(scores.to_markdown(), encoding="utf-8")
    write_json(folder / "scores.json", json.loads(json.dumps(scores.to_dict())))
    return scores


def _measure(
    damage: Damage,
    pictures: Sequence[Tensor],
    seed: int,
    methods: Mapping[str, Method],
    distance: PerceptualDistance,
    first: dict[str, Tensor],
    progress: Progress,
) -> list[Row]:
    """The rows of one damage; `first` receives what became of the first picture, by row."""
    damaged = [damage(picture, number, seed) for number, picture in enumerate(pictures)]
    rows = [_row(damage, INPUT, damaged, pictures, [_seen(one) for one in damaged], None, {}, distance, first)]
    for method in track([m for m in methods.values() if damage.name in m.damages], damage.name, progress):
        settings = BEST.get(method.name, {}).get(damage.name, {})
        started = perf_counter()
        results = [restored(method, one, settings) for one in damaged]
        seconds = (perf_counter() - started) / len(damaged)
        for name, column in zip((method.name, method.name + DEBIASED), zip(*results, strict=True), strict=False):
            rows.append(_row(damage, name, damaged, pictures, column, seconds, settings, distance, first))
    return rows


def _row(
    damage: Damage,
    method: str,
    damaged: Sequence[Damaged],
    pictures: Sequence[Tensor],
    results: Sequence[Tensor],
    seconds: float | None,
    settings: Mapping[str, Any],
    distance: PerceptualDistance,
    first: dict[str, Tensor],
) -> Row:
    """Measured as files are, in 8 bits."""
    results = [(result.clamp(0, 1) * 255).round() / 255 for result in results]
    first[method] = results[0]
    triples = list(zip(results, pictures, damaged, strict=True))
    inside = [psnr(x, y) if one.mask is None else psnr(x[:, one.mask], y[:, one.mask]) for x, y, one in triples]
    with torch.no_grad():
        apart = [float(distance(x[None] * 2 - 1, y[None] * 2 - 1)) for x, y, _ in triples]
    alike = [ssim(x, y) for x, y, _ in triples]
    return Row(damage.name, method, _mean(inside), _mean(alike), _mean(apart), seconds, settings)


def _mean(values: Sequence[float]) -> Estimate:
    estimate = Estimate.mean(np.array(values))
    assert estimate is not None  # there is at least one picture
    return estimate


def _seen(damaged: Damaged) -> Tensor:
    """The damaged picture in the truth's size."""
    same = tuple(damaged.picture.shape[1:]) == damaged.size
    return damaged.picture if same else bicubic(damaged.picture, *damaged.size)


def _cells(row: Row) -> list[str]:
    seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
    return [
        estimate_cell(row.psnr, ".2f"),
        estimate_cell(row.ssim, ".3f"),
        estimate_cell(row.perceptual, ".3f"),
        seconds,
    ]


def _padded(cell: str) -> str:
    return cell.ljust(_CELL)


def _provenance(data: str, fingerprint: str, seed: int) -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in ("ldm", "torch", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "data": Path(data).name,
        "part": part_of(data),
        "fingerprint": fingerprint,
        "seed": seed,
        "tuned_on": TUNED_ON,
        "versions": packages,
        "python": platform.python_version(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }
