"""What all benchmarks share: sides that take turns, outputs compared before a time counts, ratios, and the tables.

On a CPU with one thread, times are of processor time (this process and the ones it starts), which other processes add
little to; else they are of the clock. On a GPU, which works on while Python is done, they end when it has ended.
"""

import gc
import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ldm.engine.names import COMPILED, EAGER_NAME, ONNX, OPENVINO, PACKED

SAME = {torch.float32: 0.999, torch.float16: 0.995, torch.bfloat16: 0.995}
"""The least `agreement` of an output with the first side's, by number format."""
LIBRARIES = ("torch", "diffusers", "transformers", "xformers", "openvino", "stable-diffusion-cpp-python")
MEGABYTE = 1e6
_RATIO = ("median", "least", "most")

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a run of benchmarks was started with.

    Attributes:
        device: of all sides.
        dtypes: number formats, one after the other.
        repetitions: of each side, after one that is not counted.
        quick: networks of a few thousand weights, to see that all works.
        compiled: diffusers compiled with frozen weights, and our engine `compiled`: minutes each.
        only: our engines; without any all that there are for the device. Each keeps a copy of the weights.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    repetitions: int = 3
    quick: bool = False
    compiled: bool = False
    only: tuple[str, ...] = ()

    @property
    def engines(self) -> list[str]:
        """Our engines to measure."""
        on_cpus = [PACKED, OPENVINO] if self.device.type == "cpu" else []
        return list(self.only) or [EAGER_NAME, *on_cpus, ONNX, *([COMPILED] if self.compiled else [])]


@dataclass(frozen=True)
class Outcome:
    """What one call gave: an output, seconds by the clock and of the processor, and bytes.

    Attributes:
        memory: the peak of its process, of a call in a process of its own; on a GPU what the call took at most beyond
            what was held before; 0 where it was not measured.
    """

    output: np.ndarray
    wall: float
    processor: float
    memory: int = 0


class Unavailable(Exception):
    """A side cannot run on this machine; says why."""


@contextmanager
def fallbacks_refused() -> Iterator[None]:
    """Within it, an engine that leaves work to eager is unavailable: eager would be timed in its name."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda entry: found.append(entry.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("ldm.engine")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
    if found:
        raise Unavailable(found[0])


Run = Callable[[], Tensor | Outcome]
"""A call to time; an `Outcome` was timed where it came about, in a process of its own, so that the first one counts."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        make: gives the call; ImportError says that a package is not installed.
        ours: it is this project's.
        baseline: ratios are to the fastest of these.
    """

    name: str
    make: Callable[[], Run]
    ours: bool = False
    baseline: bool = False


@dataclass
class Timed:
    """What came out for a side.

    Attributes:
        seconds: of each round, by the comparison's clock.
        agreement: of its output with that of the first side, see `agreement`; None without one.
        note: why it was not timed; empty if it was.
    """

    name: str
    ours: bool = False
    baseline: bool = False
    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    memory: int = 0
    agreement: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of its seconds."""
        return median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """Sides that were timed in turn.

    Attributes:
        title: what they do.
        dtype: the number format in which they do it.
        clock: what the seconds are of, `processor` or `wall`.
        pictures: what one call makes; 0 where that is no measure.
    """

    title: str
    dtype: str
    clock: str
    sides: list[Timed]
    pictures: int = 0

    @property
    def baseline(self) -> Timed:
        """What ratios are to: the fastest baseline, or the first side that was timed."""
        timed = [side for side in self.sides if side.seconds]
        return min([side for side in timed if side.baseline] or timed[:1], key=lambda side: side.median)

    def ratio(self, side: Timed) -> tuple[float, float, float]:
        """How many times as fast as the baseline a side is: median, least and most of the rounds."""
        rounds = [theirs / ours for theirs, ours in zip(self.baseline.seconds, side.seconds, strict=True)]
        return median(rounds), min(rounds), max(rounds)

    def losses(self) -> list[str]:
        """Where our best is slower, or takes more memory, than another side."""
        timed = [side for side in self.sides if side.seconds]
        ours = [side for side in timed if side.ours]
        lines = []
        for other in (side for side in timed if not side.ours and ours):
            best = min(ours, key=lambda side: side.median)
            if best.median > other.median:
                share = best.median / other.median - 1
                lines.append(f"{self.title}, {self.dtype}: {best.name} takes {share:.0%} longer than {other.name}")
            least = min(ours, key=lambda side: side.memory)
            if other.memory and least.memory > other.memory:
                share = least.memory / other.memory - 1
                lines.append(
                    f"{self.title}, {self.dtype}: {least.name} takes {share:.0%} more memory than {other.name}"
                )
        return lines


def agreement(output: np.ndarray, expected: np.ndarray) -> float:
    """Lin's concordance coefficient of two outputs: 1 for equal ones, 0 for others of another shape or without numbers.

    It is at most the cosine between the outputs less their means, and below it where one is shifted or scaled: to ask
    for 0.999 of it is to ask for more than a cosine of 0.999. Lin 1989, "A concordance correlation coefficient to
    evaluate reproducibility", eq. 1.
    """
    if output.shape != expected.shape or not np.isfinite(output).all():
        return 0.0
    a, b = output.astype(np.float64), expected.astype(np.float64)
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(1 - np.square(a - b).mean() / spread) if spread else 1.0


def compare(title: str, sides: Sequence[Side], options: Options, dtype: torch.dtype, pictures: int = 0) -> Comparison:
    """Run every side once and compare its output with the first one's, then time those that agree, in turn.

    Args:
        title: what the sides do.
        sides: the first is what the others are compared with.
        options: device and repetitions.
        dtype: the number format, which decides how closely outputs have to agree.
        pictures: that one call makes, where that is a measure.
    """
    one_thread = options.device.type == "cpu" and torch.get_num_threads() == 1
    found, runs = Comparison(title, _short(dtype), "processor" if one_thread else "wall", [], pictures), {}
    expected: np.ndarray | None = None
    with torch.inference_mode():
        for side in sides:
            timed = Timed(side.name, side.ours, side.baseline)
            found.sides.append(timed)
            try:
                run = side.make()
                first, timed_itself = timed_call(run, options.device)
            except Unavailable as error:
                timed.note = str(error)
                continue
            except ImportError as error:
                timed.note = f"not installed ({error.name})"
                continue
            except Exception as error:  # another library's fault is a line of the table; our own is a fault
                if side.ours:
                    raise
                timed.note = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
                continue
            expected = first.output if expected is None else expected
            timed.agreement = agreement(first.output, expected)
            if timed.agreement < SAME[dtype]:
                timed.note = f"differs from {sides[0].name} (agreement {timed.agreement:.4f}), not timed"
                continue
            runs[side.name] = run, timed
            if timed_itself:
                _count(timed, first, found.clock)
        for _ in range(options.repetitions):
            for run, timed in runs.values():
                if len(timed.seconds) < options.repetitions:
                    _count(timed, timed_call(run, options.device)[0], found.clock)
    return found


def _count(timed: Timed, outcome: Outcome, clock: str) -> None:
    timed.seconds.append(outcome.processor if clock == "processor" else outcome.wall)
    timed.wall.append(outcome.wall)
    timed.memory = max(timed.memory, outcome.memory)


def timed_call(run: Run, device: torch.device) -> tuple[Outcome, bool]:
    """Call once: (what came out, whether it came with times of its own)."""
    gc.collect()
    held = _start(device)
    wall, processor = time.perf_counter(), processor_seconds()
    output = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, processor = time.perf_counter() - wall, processor_seconds() - processor
    if isinstance(output, Outcome):
        return output, True
    memory = torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else 0
    return Outcome(output.float().cpu().numpy(), wall, processor, memory), False


def _start(device: torch.device) -> int:
    """Wait for what a GPU still does; returns the bytes that are held on it."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a process of its own, which does nothing else, with as many threads."""
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, threads) as pool:
        return pool.submit(function, *arguments).result()


def in_processes(sides: Sequence[Side], function: Callable[..., Outcome], *arguments: Any) -> list[Side]:
    """The same sides, each call of which is `function(name of the side, *arguments)` in a process of its own."""
    return [
        replace(side, make=lambda name=side.name: partial(apart, function, name, *arguments)) for side in sides
    ]  # fmt: skip


def outcome_here(run: Callable[[], Tensor]) -> Outcome:
    """Call once on the CPU; its memory is the most that this process ever held."""
    return replace(timed_call(run, torch.device("cpu"))[0], memory=peak_memory())


def processor_seconds() -> float:
    """Seconds that this process, and those that it started and that ended, had a processor."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_memory() -> int:
    """Bytes that this process held at most.

    On Linux not `getrusage`, whose maximum a process inherits from the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
        "dtypes": [_short(dtype) for dtype in options.dtypes],
        "repetitions": options.repetitions,
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
        cells = [side.name, in_words(side.median), f"{middle:.2f} ({least:.2f} to {most:.2f})"]
        cells += [f"{comparison.pictures / side.median:.2f}"] * bool(comparison.pictures)
        cells += [f"{side.memory / MEGABYTE:,.0f}"] * any(each.memory for each in timed)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
