"""The progress of long work, reported to the caller, who draws a bar or does not."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`: how much is done of the work that `what` names; the last call has done = total."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def track(items: Iterable[T], what: str, progress: Progress, total: int | None = None) -> Iterator[T]:
    """The items, reporting each one as done when the next is taken.

    Args:
        items: the work.
        what: the name of the work.
        progress: receives the reports.
        total: how many items there are; may be left out where they have a length.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    progress(what, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(what, done, total)
