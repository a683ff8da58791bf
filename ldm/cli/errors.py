"""Reporting of errors to users: one line on stderr and an exit code, no traceback."""

import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from ldm.cli import interrupts
from ldm.cli.elsewhere import COMMANDS, OPTIONS
from ldm.engine.out_of_memory import NotEnoughMemory, is_out_of_memory
from ldm.naming import one_line

USAGE, FAILURE, PARTLY, INTERRUPTED = 2, 1, 5, 130  # 130 is typer's own for Ctrl-C; 5: some of many could not be done


class OneLineErrors(TyperGroup):
    """A command group whose errors are one line each: exit code 2 for a wrong request, 1 for what failed on the way.

    Anything that is neither is a bug and keeps its traceback; `LDM_TRACEBACK=1` shows it for every error.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named, also by two words; for one of another tool, an error that says what it is here."""
        if len(args) > 1 and (joined := _TWO_WORDS.get((args[0], args[1]))):
            args = [joined, *args[2:]]
        if args and args[0] not in self.commands and args[0] in COMMANDS:
            raise ValueError(f"no such command {args[0]!r}; {COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line; without arguments it prints the help."""
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        logging.getLogger("ldm").addHandler(WARNINGS)
        try:
            code = super().main(args, standalone_mode=False, **extra)
        except Exception as error:
            described = describe(error, args[0])
            if described is None or not standalone_mode or os.environ.get("LDM_TRACEBACK"):
                raise
            message, code = described
            say(message)
        finally:
            logging.getLogger("ldm").removeHandler(WARNINGS)
        if code == INTERRUPTED:
            code = interrupts.exit_code()
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


_TWO_WORDS = {("eval", "restore"): "eval-restore"}
"""Commands beside one that takes an argument: a model of that name is still reached as `./restore`."""


class _Warnings(logging.Handler):
    """Shows warnings of the library as the command line's own."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


WARNINGS = _Warnings(logging.WARNING)


def say(message: str) -> None:
    """Print one line on stderr; what stands in files may be long and hold escapes for terminals."""
    print(f"ldm: {one_line(message)}", file=sys.stderr, flush=True)


def describe(error: Exception, command: str = "") -> tuple[str, int] | None:
    """Message and exit code of an expected error; None for a bug.

    Args:
        error: what ended the command.
        command: its name, for errors that its options can mend.
    """
    if isinstance(error, NotEnoughMemory):
        return str(error), FAILURE
    if is_out_of_memory(error):
        return f"out of memory; {_SMALLER.get(command, 'close other programs, or use a machine with more')}", FAILURE
    if hasattr(error, "format_message"):  # typer's own, under whichever name its version exports it
        option = getattr(error, "option_name", None)  # of an unknown one
        if option in OPTIONS:
            return f"no such option {option}; {OPTIONS[option]}", USAGE
        return f"{error.format_message()}", getattr(error, "exit_code", USAGE)
    if isinstance(error, ValueError):
        return str(error), USAGE
    if isinstance(error, OSError):
        return _describe_os_error(error), FAILURE
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in (
        "ldm",
        "autoencoder",
        "conditioning",
    ):
        return (
            f"{error.name} is not installed; pip install 'ldm[data]' brings what data, training and judging need",
            FAILURE,
        )
    if isinstance(error, ArithmeticError):
        return str(error), FAILURE
    return None


_SMALLER = {
    **dict.fromkeys(("generate", "edit"), "use a smaller --width and --height or --batch-size"),
    "inpaint": "use --crop 32, or a smaller picture or --batch-size",
    **dict.fromkeys(("outpaint", "reconstruct"), "use a smaller picture or --batch-size"),
    "train": "use a smaller loop.batch_size; `ldm train plan CONFIG` says beforehand what a training takes",
}


def _describe_os_error(error: OSError) -> str:
    if error.errno is None or error.strerror is None:
        return str(error)
    where = error.filename if error.filename is not None else "output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where} could not be written: {error.strerror}; free some space or use another --output"
    return f"{where}: {error.strerror}"
