"""Ctrl-C and SIGTERM as requests to stop, which long work honours at the next safe place."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

_ECHO = 2.0  # seconds in which a further signal is the same request: launchers pass on what the terminal sent already


class Interrupt:
    """While it is entered, the first Ctrl-C or SIGTERM sets `requested`; a later second one stops at once, as usual.

    Attributes:
        requested: whether a stop was requested.
        number: of the signal that requested it.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number: int = signal.SIGINT
        self._requested_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.number, self._requested_at = True, number, time.monotonic()
        elif time.monotonic() - self._requested_at > _ECHO:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
