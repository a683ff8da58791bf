"""What was measured as people and programs read it: tables, JSON, a plot, and the machine that it is of."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Comparison, Options, Timed

LIBRARIES = ("torch", "diffusers", "transformers", "xformers", "openvino", "stable-diffusion-cpp-python")
MEGABYTE = 1e6
_RATIO = ("median", "least", "most")


def machine(options: Options) -> dict[str, Any]:
    """What the figures are of: processor and its instructions, threads, versions, number formats."""
    from ldm.engine.placement import processor_features, processor_name

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "processor": processor_name(),
        "features": processor_features(),
        "cores": len(cores),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": list(os.getloadavg()),
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "repetitions": options.repetitions,
        "rounds": options.rounds,
        "quick": options.quick,
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in ("ldm", *LIBRARIES):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def table(comparison: Comparison) -> str:
    """Lines of Markdown: medians, how many times as fast as the baseline with the spread of the rounds, and memory."""
    timed = [side for side in comparison.sides if side.seconds]
    columns = [f"{comparison.title}, {comparison.dtype}", f"{comparison.clock} time"]
    columns += [f"times as fast as {comparison.baseline.name}"] if timed else ["times as fast"]
    columns += ["pictures/s"] * bool(comparison.pictures) + ["memory, MB"] * any(side.memory for side in timed)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for side in comparison.sides:
        if not side.seconds:
            lines.append(f"| {side.name} | {side.note} " + "| " * (len(columns) - 2) + "|")
            continue
        middle, least, most = comparison.ratio(side)
        cells = [_titled(side), in_words(side.median), f"{middle:.2f} ({least:.2f} to {most:.2f})"]
        cells += [f"{comparison.pictures / side.median:.2f}"] * bool(comparison.pictures)
        cells += [f"{side.memory / MEGABYTE:,.0f}"] * any(each.memory for each in timed)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _titled(side: Timed) -> str:
    """A side's name, and that its output was not verified where it was not."""
    if not side.unlike:
        return side.name
    return f"{side.name} (not verified: {side.unlike}; agreement {side.agreement or 0:.3f})"


def in_words(seconds: float) -> str:
    """A time in seconds or milliseconds, with three figures."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def record(about: dict[str, Any], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything as JSON has it: the machine, and each comparison with medians, ratios and where we lose."""
    rows = []
    for each in comparisons:
        row = asdict(each)
        for side, timed in zip(row["sides"], each.sides, strict=True):
            if timed.seconds:
                side |= {"median": timed.median, "ratio": dict(zip(_RATIO, each.ratio(timed), strict=True))}
        rows.append({**row, "losses": each.losses()})
    return {"machine": about, "comparisons": rows}


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """Bars of how many times as fast as the baseline each side is, with the spread; needs `ldm[bench]`."""
    import matplotlib.pyplot as plt

    shown = [(each, [side for side in each.sides if side.seconds]) for each in comparisons]
    heights = [len(sides) + 1 for _, sides in shown]
    figure, axes = plt.subplots(
        len(shown), figsize=(9, 0.3 * sum(heights) + 0.6), height_ratios=heights, sharex=True, squeeze=False
    )
    for (each, sides), axis in zip(shown, axes[:, 0], strict=True):
        for place, side in enumerate(reversed(sides)):
            middle, least, most = each.ratio(side)
            error = [[middle - least], [most - middle]]
            axis.barh(place, middle, xerr=error, color="tab:blue" if side.ours else "silver", ecolor="dimgray")
            axis.text(0.02, place, in_words(side.median), va="center", fontsize=8)
        axis.set_yticks(range(len(sides)), [side.name for side in reversed(sides)], fontsize=8)
        axis.set_title(f"{each.title}, {each.dtype}", fontsize=9, loc="left")
        axis.axvline(1, color="black", linewidth=0.8)
    axes[-1, 0].set_xlabel("times as fast as the baseline")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
