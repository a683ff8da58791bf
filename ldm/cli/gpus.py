"""`--gpus`: pictures shared among devices, a process each, which send them back to the one that saves them."""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from ldm.cli.errors import WARNINGS, describe
from ldm.generation.request import Request

if TYPE_CHECKING:
    from ldm.cli.report import Report
    from ldm.generation.result import Result
    from ldm.generation.task import Task

T = TypeVar("T")

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Steps:
    """A process has done steps of its pictures.

    Attributes:
        done: since it said so last.
        expected: of all its pictures.
    """

    done: int
    expected: int


@dataclass(frozen=True)
class Failed:
    """A process cannot go on: what the command line says of it, and its exit code."""

    message: str
    code: int


def visible_gpus(text: str) -> list[str]:
    """`--gpus all`, `2` or `0,2` -> what `CUDA_VISIBLE_DEVICES` is for the process of each GPU.

    Raises:
        ValueError: it names no GPUs, or ones that are not there.
    """
    import torch

    there = torch.cuda.device_count()
    if not there:
        raise ValueError(f"--gpus {text} needs CUDA GPUs, and torch finds none; leave it out")
    numbers = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if text == "all":
        numbers = list(range(there))
    elif "," not in text and 1 <= numbers[0] <= there:
        numbers = list(range(numbers[0]))
    elif "," not in text or not all(0 <= each < there for each in numbers) or len({*numbers}) < len(numbers):
        found = "0 is there" if there == 1 else f"0 to {there - 1} are there"
        raise ValueError(f"--gpus {text} is not possible: {found}; use all, how many, or their numbers as in 0,2")
    names = os.environ[_VISIBLE].split(",") if os.environ.get(_VISIBLE) else list(map(str, range(there)))
    return [names[number] for number in numbers]


def shared(things: Sequence[T], among: int) -> list[list[T]]:
    """Things that follow one another, in so many shares whose sizes differ by one at most; none is empty."""
    among = min(among, len(things))
    ends = [len(things) * share // among for share in range(among + 1)] if among else [0]
    return [list(things[begin:end]) for begin, end in pairwise(ends)]


class Workers:
    """One process for each device, which draws its share of the pictures, in order; they end with the block.

    Args:
        devices: what `CUDA_VISIBLE_DEVICES` is for each; empty is none, so that it draws on the CPU.
        shares: for each, the requests of its pictures, of one picture each.
        report: by which the first process says what is said once.
    """

    def __init__(self, devices: Sequence[str], shares: Sequence[Sequence[Request]], report: "Report") -> None:
        context = get_context("spawn")  # a process that uses CUDA cannot be forked
        self._processes: dict[Connection, BaseProcess] = {}
        for number, (device, share) in enumerate(zip(devices, shares, strict=True)):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(device, list(share), sender, report if number == 0 else None))
            process.daemon = True
            self._processes[receiver] = process
            process.start()
            sender.close()  # so that the end of the process is the end of the pipe

    def __enter__(self) -> Self:
        return self

    def messages(self) -> "Iterator[tuple[int, Steps | Result | Failed]]":
        """The number of a process and what it sends, as it comes, until all have ended.

        Raises:
            OSError: a process died, behind what the others send.
        """
        numbers = {receiver: number for number, receiver in enumerate(self._processes)}
        died: dict[int, str] = {}
        while numbers:
            for receiver in wait(list(numbers)):
                assert isinstance(receiver, Connection)
                try:
                    yield numbers[receiver], receiver.recv()
                except EOFError:
                    number, process = numbers.pop(receiver), self._processes[receiver]
                    process.join()
                    if process.exitcode:
                        died[number] = f"{number} ({_end(process.exitcode)})"
        if died:
            which = ", ".join(died[number] for number in sorted(died))
            raise OSError(f"process {which} of --gpus died before its last picture; draw the rest again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()


def _end(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


def _work(device: str, requests: list[Request], sender: Connection, report: "Report | None") -> None:
    """What a process does: draw the requests, and send steps and results."""
    os.environ[_VISIBLE] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all processes; the first one ends them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("ldm").addHandler(logging.NullHandler() if report is None else WARNINGS)
    with suppress(BrokenPipeError):  # the one that saves is gone
        try:
            _draw(deque(requests), sender, report)
        except Exception as error:
            described = describe(error, "generate")
            if described is None:
                raise
            sender.send(Failed(*described))


def _draw(waiting: deque[Request], sender: Connection, report: "Report | None") -> None:
    from ldm.cli.jobs import described_task, together
    from ldm.cli.opener import Opener
    from ldm.cli.report import Report
    from ldm.generation.cautions import cautions

    opener, expected, cautious = Opener(report or Report(False, quiet=True)), 0, report
    while waiting:
        opened = opener(waiting[0])
        expected = expected or sum(map(opened.steps_for, waiting))
        if cautious is not None:
            for line in cautions(opened.model, replace(waiting[0], prompt=tuple(each.prompts[0] for each in waiting))):
                cautious.warn(line)
            cautious = None
        request = together([*waiting], waiting[0].batch_size or opened.fitting_batch_size(waiting[0]))
        drawing, own = opened.steps(request, _made(described_task(request))), opened.steps_for(request)
        for step in drawing:
            if step.index == 0:  # some samplers and tasks take other steps than the request's
                expected += (step.total - own) * len(step.rows)
            sender.send(Steps(len(step.rows), expected))
        sender.send(drawing.result)
        for _ in request.prompts:
            waiting.popleft()


def _made(task: "Callable[[], Task] | None") -> "Task | None":
    return None if task is None else task()
