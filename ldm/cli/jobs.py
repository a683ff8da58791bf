"""What a command draws: one request, cut into a line for each prompt, and what no model could draw of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.cli.opener import regions_of
from ldm.generation.first_noise import later, with_seeds
from ldm.generation.request import Request

if TYPE_CHECKING:
    from ldm.generation.task import Task


@dataclass(frozen=True)
class Job:
    """What is drawn with one request.

    Attributes:
        request: of all its pictures.
        task: makes what is done with a picture that is put in; None is what the request says.
        source: the file that is put in.
        statistics: whether several pictures are samples of one, whose mean and deviation are saved too.
    """

    request: Request
    task: "Callable[[], Task] | None" = None
    source: Path | None = None
    statistics: bool = False

    @property
    def count(self) -> int:
        """Of its pictures."""
        return len(self.request.prompts) * self.request.num_images_per_prompt

    def lines(self) -> "list[Line]":
        """One for each prompt; seeds count up over all pictures."""
        request, times = with_seeds(self.request), self.request.num_images_per_prompt
        return [
            Line(
                later(replace(request, prompt=prompt), row * times),
                task=self.task,
                source=self.source,
                statistics=self.statistics,
            )
            for row, prompt in enumerate(request.prompts)
        ]


@dataclass(frozen=True)
class Line:
    """One prompt and what it gives: as many pictures as its request counts, and a contact sheet of them.

    Attributes:
        request: with one prompt and seeds.
        where: it stands, for messages; empty is the command line.
        key: in the journal; empty is not to be kept there.
        resumed: an earlier run began it.
        task: makes what is done with a picture that is put in; None is what the request says.
        source: the file that is put in.
        statistics: see `Job`.
    """

    request: Request
    where: str = ""
    key: str = ""
    resumed: bool = False
    task: "Callable[[], Task] | None" = None
    source: Path | None = None
    statistics: bool = False

    def pictures(self) -> list[Request]:
        """The requests of its pictures, one each."""
        one = replace(self.request, num_images_per_prompt=1)
        return [later(one, number) for number in range(self.request.num_images_per_prompt)]


def check_request(line: Line) -> None:
    """Refuse what no model could draw, light to do; says where it stands."""
    with _named(line):
        if not line.request.prompts[0].strip():
            raise ValueError('PROMPT is missing or empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')
        line.request.check(options=True)


def check_settings(line: Line) -> None:
    """Refuse names, options and files that nothing could follow, before the seconds that loading a model takes."""
    from ldm.generation import resolve

    with _named(line):
        resolve.check_settings(line.request)
        regions_of(line.request)
        if line.request.latents is not None:
            from ldm.io.noise_file import NoiseFile

            NoiseFile.parse(line.request.latents).check(line.request.num_images_per_prompt)


@contextmanager
def _named(line: Line) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if not line.where:
            raise
        raise ValueError(f"{line.where}: {error}") from None


def described_task(request: Request) -> "Callable[[], Task] | None":
    """What makes the task that a request describes."""
    from ldm.tasks.table import task_from

    return partial(task_from, request.task) if request.task else None


def together(requests: Sequence[Request], most: int) -> Request:
    """The first requests of one picture each that can be drawn as one: seeds count up, and prompts alone differ."""
    first, prompts = requests[0], [requests[0].prompts[0]]
    for number, request in enumerate(requests[1:most], start=1):
        if replace(later(first, number), prompt=request.prompt) != request:
            break
        prompts.append(request.prompts[0])
    return replace(first, prompt=tuple(prompts))
