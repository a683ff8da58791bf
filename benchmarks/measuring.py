"""What all benchmarks share: sides that take turns, outputs compared before a time counts, and ratios.

Where all sides of a comparison fit into memory they stay there and are called in turn, evaluation by evaluation. Where
they do not, a comparison goes in rounds: in each, every side is built, called once and timed in a process of its own,
which gives its memory back (`benchmarks.processes`). Every other turn is in reverse order. A side that fails is a row
with the reason.

On a CPU with one thread, times are of processor time (this process and the ones it starts), which other processes add
little to; else they are of the clock. On a GPU, which works on while Python is done, they end when it has ended.
"""

import gc
import logging
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ldm.engine import disk_cache
from ldm.engine.names import COMPILED, EAGER_NAME, ONNX, OPENVINO, PACKED
from ldm.engine.out_of_memory import is_out_of_memory

SAME = {torch.float32: 0.999, torch.float16: 0.995, torch.bfloat16: 0.995}
"""The least `agreement` of an output with the first side's, by number format."""


@dataclass(frozen=True)
class Options:
    """What a run of benchmarks was started with.

    Attributes:
        device: of all sides.
        dtypes: number formats, one after the other; none until a benchmark's own is put in.
        repetitions: of each side, and in each round, after one that is not counted.
        quick: networks of a few thousand weights, to see that all works.
        compiled: diffusers compiled with frozen weights, and our engine `compiled`: minutes each.
        only: our engines; without any all that there are for the device. Each keeps a copy of the weights.
        rounds: in which sides that do not fit into memory together are built anew.
        limit: seconds that a process of its own may take.
    """

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    repetitions: int = 3
    quick: bool = False
    compiled: bool = False
    only: tuple[str, ...] = ()
    rounds: int = 2
    limit: float = 900.0

    @property
    def engines(self) -> list[str]:
        """Our engines to measure."""
        on_cpus = [PACKED, OPENVINO] if self.device.type == "cpu" else []
        return list(self.only) or [EAGER_NAME, *on_cpus, ONNX, *([COMPILED] if self.compiled else [])]


@dataclass(frozen=True)
class Outcome:
    """What calls gave: an output, seconds of each by the clock and of the processor, and bytes.

    Attributes:
        memory: the peak of its process, of a call in a process of its own; on a GPU what the call took at most beyond
            what was held before; 0 where it was not measured.
    """

    output: np.ndarray
    wall: list[float]
    processor: list[float]
    memory: int = 0


class Unavailable(Exception):
    """A side cannot run on this machine; says why."""


FAILED = "failed: "
"""How the reason begins where nothing is known of it but an error."""


def reason(error: Exception) -> str:
    """Why a side cannot be timed, in a line; an error that says nothing of the machine is shown as Python does."""
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, ImportError):
        return f"not installed ({error.name})"
    if is_out_of_memory(error) or "bad_alloc" in str(error):
        return "out of memory"
    traceback.print_exception(error)
    return f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())[:100]}"


@contextmanager
def fallbacks_refused() -> Iterator[None]:
    """Within it, an engine that leaves work to eager is unavailable: eager would be timed in its name.

    What is said of a graph's file is no such thing: the network is converted anew then.
    """
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda entry: entry.name != disk_cache.__name__)
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
"""A call to time; an `Outcome` was timed where it came about, in a process of its own."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        make: gives the call; ImportError says that a package is not installed.
        ours: it is this project's.
        baseline: ratios are to the fastest of these.
        turns: how often it has a process of its own, which times itself; 0 where it stays in memory.
        unlike: why its output may differ; if it does, its time is shown nevertheless, as not verified.
    """

    name: str
    make: Callable[[], Run]
    ours: bool = False
    baseline: bool = False
    turns: int = 0
    unlike: str = ""


@dataclass
class Timed:
    """What came out for a side.

    Attributes:
        seconds: of each call, by the comparison's clock.
        agreement: the least of its outputs with that of the first side, see `agreement`; None without one.
        note: why it was not timed; empty if it was.
        unlike: why its output differs, so that it is not verified; empty where it agrees.
    """

    name: str
    ours: bool = False
    baseline: bool = False
    seconds: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    memory: int = 0
    agreement: float | None = None
    note: str = ""
    unlike: str = ""

    @property
    def median(self) -> float:
        """Of its seconds."""
        return median(self.seconds)

    def give_up(self, note: str) -> None:
        """Not to be timed any more: what was is of no comparison."""
        self.note, self.seconds, self.wall, self.memory = note, [], [], 0


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
        """What ratios are to: the fastest baseline, or the first that was timed; a verified one if there is one."""
        timed = [side for side in self.sides if side.seconds]
        timed = [side for side in timed if not side.unlike] or timed
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
    """Time sides in turn; the first turn of those that stay in memory is not counted.

    Args:
        title: what the sides do.
        sides: the first that runs is what the others are compared with.
        options: device and repetitions.
        dtype: the number format, which decides how closely outputs have to agree.
        pictures: that one call makes, where that is a measure.
    """
    one_thread = options.device.type == "cpu" and torch.get_num_threads() == 1
    rows = [(side, Timed(side.name, side.ours, side.baseline)) for side in sides]
    clock = "processor" if one_thread else "wall"
    found = Comparison(title, short_name(dtype), clock, [timed for _, timed in rows], pictures)
    kept: dict[str, Run] = {}
    reference: tuple[str, np.ndarray] | None = None
    with torch.inference_mode():
        for turn in range(max([options.repetitions + 1, *(side.turns for side in sides)])):
            for side, timed in rows if turn % 2 == 0 else rows[::-1]:
                if timed.note or turn >= (side.turns or options.repetitions + 1):
                    continue
                if side.turns:
                    print(f"{title}, {found.dtype}, {turn + 1} of {side.turns}: {side.name}", file=sys.stderr)
                try:
                    outcome = _take_turn(side, kept, options.device)
                except Exception as error:
                    timed.give_up(reason(error))
                    kept.pop(side.name, None)
                    continue
                reference = reference or (side.name, outcome.output)
                agreed = agreement(outcome.output, reference[1])
                timed.agreement = agreed if timed.agreement is None else min(agreed, timed.agreement)
                if agreed < SAME[dtype]:
                    timed.unlike = side.unlike
                    if not side.unlike:
                        timed.give_up(f"differs from {reference[0]} (agreement {agreed:.4f}), not timed")
                        kept.pop(side.name, None)
                        continue
                if side.turns or turn:
                    timed.seconds += outcome.processor if one_thread else outcome.wall
                    timed.wall += outcome.wall
                    timed.memory = max(timed.memory, outcome.memory)
    return found


def _take_turn(side: Side, kept: dict[str, Run], device: torch.device) -> Outcome:
    """Call a side once, in a process of its own or as it is kept."""
    if side.turns:
        outcome = side.make()()
        assert isinstance(outcome, Outcome)
        return outcome
    if side.name not in kept:
        kept[side.name] = side.make()
    return timed_call(kept[side.name], device)


def timed_call(run: Run, device: torch.device) -> Outcome:
    """Call once what gives a tensor."""
    gc.collect()
    held = _start(device)
    wall, processor = time.perf_counter(), processor_seconds()
    output = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, processor = time.perf_counter() - wall, processor_seconds() - processor
    assert isinstance(output, Tensor)
    memory = torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else 0
    return Outcome(output.float().cpu().numpy(), [wall], [processor], memory)


def _start(device: torch.device) -> int:
    """Wait for what a GPU still does; returns the bytes that are held on it."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def processor_seconds() -> float:
    """Seconds that this process, and those that it started and that ended, had a processor."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def short_name(dtype: torch.dtype) -> str:
    """Without torch's name."""
    return str(dtype).removeprefix("torch.")
