"""The table of restoration as one picture, by matplotlib: where each method lies, and what the restorer gains."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from ldm.evaluation.restoration.summary import DEBIASED, Summary

NEEDS = "no plot: matplotlib is not installed; pip install 'ldm[bench]'"
_ROW, _COLOURS = 0.44, 128
_BLUE, _LIGHT = "#1f6fb4", "#7db8e8"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _filter(unbiased: bool) -> Callable[[Summary], float | None]:
    return lambda one: next((value for name, value in one.filters.items() if name.endswith(DEBIASED) == unbiased), None)


_MARKS: tuple[tuple[str, Callable[[Summary], float | None], str, str, float], ...] = (
    ("damaged picture", lambda one: one.input, "x", "#888888", -0.1),
    ("best filter", _filter(False), "o", "#e8b07a", -0.3),
    ("best filter, de-biased", _filter(True), "o", "#c25a00", -0.3),
    ("restorer, damage stated", lambda one: one.restorer, "D", _BLUE, -0.1),
    ("restorer, blind", lambda one: one.blind, "D", _LIGHT, 0.1),
    ("posterior mean of a generator", lambda one: one.posterior, "^", "#2b8a3e", 0.3),
    ("autoencoder's ceiling", lambda one: one.ceiling, "|", "#2b8a3e", 0.3),
)
"""Label, value, mark, colour and lane: how far below the line of its damage, of the distance between two."""


def write_plot(path: Path, found: Sequence[Summary], about: str) -> None:
    """Write a small PNG: on the left PSNR by damage and method, on the right the restorer beside the best filter.

    Args:
        path: of the PNG.
        found: of each damage, from above.
        about: a line below: where the numbers are from.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, _ROW * len(found) + 2.0), layout="constrained")
    values, gains = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, 1])
    for label, value, mark, colour, lane in _MARKS:
        places = [(psnr, row + lane) for row, one in enumerate(found) if (psnr := value(one)) is not None]
        if places:
            values.scatter(*zip(*places, strict=True), marker=mark, c=colour, s=30, label=label, zorder=3)
    for row, one in enumerate(found):
        best = one.best_filter
        for restored, colour, lane in ((one.restorer, _BLUE, -0.19), (one.blind, _LIGHT, 0.19)):
            if best is None or restored is None:
                continue
            gain = restored - best[1]
            bar = gains.barh(row + lane, gain, 0.34, color=colour, zorder=3)
            gains.bar_label(bar, [f"{gain:+.2f}"], padding=3, fontsize=8)
    values.set_yticks(range(len(found)), [one.damage for one in found])
    values.set_ylim(len(found) - 0.4, -0.6)
    values.set_xlabel("PSNR, dB")
    gains.set_xlabel("restorer beside the best filter, dB")
    gains.axvline(0, color="black", linewidth=0.8)
    gains.margins(x=0.25)
    gains.tick_params(left=False)
    gains.locator_params(axis="x", nbins=5)
    for axis in (values, gains):
        axis.grid(axis="x", alpha=0.3)
        axis.hlines([row + 0.5 for row in range(len(found) - 1)], 0, 1, "#dddddd", transform=axis.get_yaxis_transform())
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.supxlabel(about, fontsize=8, color="#555555")
    figure.savefig(path, dpi=100)
    with Image.open(path) as plotted:  # so few colours want no more bits
        small = plotted.convert("RGB").quantize(_COLOURS)
    small.save(path, optimize=True)
