"""Prefetching of batches in a thread, with a measure of how long the step waited for them."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END = object()


class Prefetcher(Generic[T]):
    """The items of an iterator in their order, taken from it by a thread of its own.

    At most `depth` items lie ready and one more is in the thread's hand, so memory is bounded. What the iterator
    raises is raised here, in one line, when its turn comes.

    Args:
        start: makes the iterator; called in the thread.
        depth: items that lie ready; 0 takes each one when it is needed, without a thread.
        timeout: seconds after which an item that does not come is an error; 0 waits for ever.

    Attributes:
        waited: seconds that the items were waited for since the last `take_waited`.
    """

    def __init__(self, start: Callable[[], Iterator[T]], depth: int, timeout: float = 0) -> None:
        self.waited = 0.0
        self._timeout = timeout or None
        self._source: Iterator[T] | None = start() if depth == 0 else None
        self._ready: queue.Queue[Any] = queue.Queue(max(depth, 1))
        self._stopped = threading.Event()
        if depth:
            threading.Thread(target=self._fill, args=(start,), name="prefetch", daemon=True).start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item.

        Raises:
            OSError: it did not come in time, or a data-loading process died.
        """
        before = time.perf_counter()
        try:
            item = self._next()
        except RuntimeError as error:  # torch's handler of SIGCHLD raises it in whatever the main thread does
            item = _Failed(error)
        self.waited += time.perf_counter() - before
        if isinstance(item, _Failed):
            self.close()
            raise _in_one_line(item.error) from item.error
        if item is _END:
            self._source = iter(())
            raise StopIteration
        return item

    def take_waited(self) -> float:
        """Seconds that the items were waited for since the last call."""
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self) -> None:
        """Let the thread end; what it made ready is dropped."""
        self._stopped.set()
        while not self._ready.empty():
            self._ready.get_nowait()

    def _next(self) -> Any:
        if self._source is not None:
            return next(self._source, _END)
        try:
            return self._ready.get(timeout=self._timeout)
        except queue.Empty:
            self.close()
            raise OSError(
                f"no batch came within loop.load_timeout={self._timeout:g} seconds; look after the disk or server that"
                " holds the data, or raise loop.load_timeout"
            ) from None

    def _fill(self, start: Callable[[], Iterator[T]]) -> None:
        try:
            for item in start():
                self._put(item)
                if self._stopped.is_set():
                    return
            self._put(_END)
        except BaseException as error:
            self._put(_Failed(error))

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                pass


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _in_one_line(error: BaseException) -> BaseException:
    """The error itself, or what is under the traceback that a data-loading process sends as its message."""
    text = str(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in text and "Traceback" not in text:
        what = text.splitlines()[0].rstrip(".")
        return OSError(f"a data-loading process died ({what}); it may lack memory: use fewer loop.workers")
    if not isinstance(error, OSError | ValueError) or "Traceback" not in text:
        return error
    *_, last = text.strip().splitlines()
    return (OSError if isinstance(error, OSError) else ValueError)(last.partition(": ")[2] or last)
