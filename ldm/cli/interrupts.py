"""Ctrl-C and SIGTERM on the command line: one clean end with exit code 130 or 143, whenever they come.

Light to import: it is there before the libraries that take seconds.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

_received: list[int] = []
_PATIENCE = 5.0  # seconds
_SHOW_CURSOR = "\x1b[?25h"


def listen() -> None:
    """Let the first signal end the work with a KeyboardInterrupt, which cleans up, and a second one the process."""
    _install(_stop)
    if threading.current_thread() is threading.main_thread() and signal.set_wakeup_fd(-1) == -1:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=_leave_if_stuck, args=(reader,), daemon=True).start()


def leave_at_once() -> None:
    """Let a signal end the process without a word: while libraries are imported, and after the work."""
    _install(_leave)


def exit_code() -> int:
    """Of a command that was interrupted: 128 and the signal's number, as shells have it."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def _install(handler: "signal._HANDLER") -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs have it
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _OWNER:  # a forked worker, whom the parent ends
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _received.append(number)
    leave_at_once()
    raise KeyboardInterrupt


def _leave_if_stuck(reader: int) -> None:
    """Leave for the main thread where that is in one long computation: Python would hear the signal only behind it."""
    heard = 0
    while read := os.read(reader, 1):
        number = read[0]
        if signal.getsignal(number) not in (_stop, _leave):  # a training's, which ends behind its step
            continue
        heard += 1
        if heard == 1:
            time.sleep(_PATIENCE)
        if heard > 1 or not _received:
            _leave(number, None)


def _leave(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _OWNER and sys.stderr is not None and sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
    os._exit(128 + number)


_OWNER = os.getpid()
