"""The command line `ldm`. Signals are listened to before anything else is imported."""

from collections.abc import Sequence
from typing import Any

from ldm.cli import interrupts, threads


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Args:
        arguments: in place of the command line's.
    """
    interrupts.leave_at_once()
    threads.wait_briefly()
    from ldm.cli.commands import app

    interrupts.listen()
    try:
        app(None if arguments is None else list(arguments))
    finally:
        interrupts.leave_at_once()


def __getattr__(name: str) -> Any:
    """`app`, for which libraries are imported only when it is used."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldm.cli.commands import app

    return app
