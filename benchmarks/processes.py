"""Calls in processes of their own, so that their memory is theirs alone and comes back, and that can be ended."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch

from benchmarks.measuring import Options, Outcome, Run, Side, Unavailable, reason, timed_call
from ldm.generation.memory import free_memory

_COPIES = 2
"""Of the weights, that a side holds: packed or converted ones, and what they were made of."""

T = TypeVar("T")


def apart(function: Callable[..., T], *arguments: Any, limit: float | None = None) -> T:
    """Call a function of a module in a process of its own, which does nothing else, with as many threads.

    Args:
        function: what to call.
        arguments: of it, which can be pickled.
        limit: seconds, after which it is ended.

    Raises:
        Unavailable: it failed, or took longer, or its process came to an end; says which.
    """
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, torch.get_num_threads(), function, arguments))
    process.start()
    there.close()
    try:
        if not here.poll(limit):
            raise Unavailable(f"took longer than {(limit or 0) / 60:g} minutes")
        answer = here.recv()
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        why = "killed, as Linux does where memory runs out" if killed else f"its process ended with {process.exitcode}"
        raise Unavailable(why) from None
    finally:
        here.close()
        _end(process)
    if isinstance(answer, Unavailable):
        raise answer
    return answer


def _end(process: BaseProcess) -> None:
    assert process.pid is not None  # 0 would be the group of this very process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # compilers that it started, too
    process.kill()
    process.join()


def _answer(there: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a process of its own does."""
    os.setsid()
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out, Linux is to end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(threads)
    try:
        answer = function(*arguments)
    except Exception as error:
        answer = Unavailable(reason(error))
    there.send(answer)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os.killpg(0, signal.SIGKILL)


def in_processes(
    sides: Sequence[Side], turns: int, options: Options, function: Callable[..., Outcome], *arguments: Any
) -> list[Side]:
    """The same sides, each call of which is `function(name of the side, *arguments)` in a process of its own.

    Args:
        sides: whose names count.
        turns: how often each has one.
        options: how long it may take.
        function: of a module.
        arguments: of it, after the name.
    """
    return [
        replace(
            side,
            turns=turns,
            make=lambda name=side.name: partial(apart, function, name, *arguments, limit=options.limit),
        )
        for side in sides
    ]


def in_rounds(
    sides: Sequence[Side], weights: int, options: Options, function: Callable[..., Outcome], *arguments: Any
) -> list[Side]:
    """The same sides where all fit into the free memory together, else one at a time, in `options.rounds` rounds.

    Where compiled ones are to be timed it is one at a time, too: compilers can be ended after `options.limit` only in a
    process of their own.

    Args:
        sides: of a comparison.
        weights: bytes of them in one network.
        options: how many rounds.
        function: `(name of the side, *arguments)`, does what `warm_outcome` does with the side of that name.
        arguments: of it.
    """
    free = free_memory(options.device)
    if not options.compiled and (free is None or _COPIES * weights * len(sides) <= free):
        return list(sides)
    return in_processes(sides, options.rounds, options, function, *arguments)


def named(sides: Sequence[Side], name: str) -> Side:
    """The side of that name, which alone will be made."""
    return next(side for side in sides if side.name == name)


def warm_outcome(side: Side, options: Options) -> Outcome:
    """Make a side, call it once, then time it; its memory includes that of making it."""
    with torch.inference_mode():
        run = side.make()
        first = timed_call(run, options.device)
        timed = [timed_call(run, options.device) for _ in range(options.repetitions)]
    memory = max(each.memory for each in timed) if options.device.type == "cuda" else peak_memory()
    wall, processor = [each.wall[0] for each in timed], [each.processor[0] for each in timed]
    return Outcome(first.output, wall, processor, memory)


def outcome_here(run: Run) -> Outcome:
    """Call once on the CPU; its memory is the most that this process ever held."""
    with torch.inference_mode():
        return replace(timed_call(run, torch.device("cpu")), memory=peak_memory())


def peak_memory() -> int:
    """Bytes that this process held at most.

    On Linux not `getrusage`, whose maximum a process inherits from the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
