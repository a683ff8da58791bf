"""What `ldm generate` says: paths or JSON on stdout, everything else on stderr, or nothing."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.cli.errors import say

if TYPE_CHECKING:
    from ldm.generation.result import Result


class Report:
    """Says what is done and finished.

    Args:
        as_json: one JSON object a picture, and nothing that only a person would read.
        quiet: nothing at all; errors are said elsewhere.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    @property
    def hides_bars(self) -> bool:
        """Whether no bar is shown."""
        return self.as_json or self.quiet

    def loading(self, name: str) -> None:
        """What is going on during the first seconds; for a person who waits, not for logs."""
        if not self.hides_bars and sys.stderr.isatty():
            print(f"loading {name}...", file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """One line about something that is not as expected."""
        if not self.quiet:
            say(message)

    def picture(self, path: Path, result: "Result", number: int, source: Path | None = None) -> None:
        """A finished picture, made of `source`, and whether its prompt fills more than a chunk of the text encoder."""
        seed, prompt, tokens = result.seeds[number], result.prompts[number], result.tokens[number]
        seconds = result.seconds / len(result.seeds)
        if tokens.chunks > 1:
            self.warn(f"{tokens.total} tokens, read in {tokens.chunks} chunks, fill the prompt {prompt[:40]}...")
        line: dict[str, object] = {"picture": str(path), "seed": seed, "seconds": round(seconds, 3), "prompt": prompt}
        line |= {} if source is None else {"input": str(source)}
        line |= {"tokens_used": tokens.used, "tokens_total": tokens.total, "chunks": tokens.chunks}
        self._print(line, f"{path}  seed {seed}  {seconds:.1f} s")

    def changed(self, path: Path, record: Mapping[str, object], words: str) -> None:
        """What became of a picture that was put in, as a record for programs and in words."""
        self._print({"picture": str(path), **record}, f"{path}  {words}")

    def grid(self, path: Path) -> None:
        """The contact sheet of a prompt's pictures."""
        self._print({"grid": str(path)}, f"{path}")

    def statistic(self, what: str, path: Path) -> None:
        """The mean or the deviation of all samples of a picture."""
        self._print({what: str(path)}, f"{path}")

    def cost(self, cells: int, missing: int, steps: int) -> None:
        """What a grid takes, before it is drawn."""
        there = f", {cells - missing} of them finished" if missing < cells else ""
        if self.as_json:
            self._print({"cells": cells, "finished": cells - missing, "steps": steps}, "")
        else:
            self.warn(f"{cells:,} pictures{there}; {steps:,} steps")

    def left(self, seconds: float) -> None:
        """How long the rest of a grid takes, after its first picture."""
        if self.as_json:
            self._print({"estimated_seconds": round(seconds, 1)}, "")
        else:
            self.warn(f"about {seconds:,.0f} s for the other pictures")

    def cell(self, path: Path) -> None:
        """A finished picture of a grid; only programs want all of them."""
        if self.as_json:
            self._print({"cell": str(path)}, "")

    def _print(self, content: dict[str, object], line: str) -> None:
        if not self.quiet:
            print(json.dumps(content, ensure_ascii=False) if self.as_json else line, flush=True)
