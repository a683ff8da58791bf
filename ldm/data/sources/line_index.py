"""Metadata of many pictures in little memory: one JSON object a line."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np


class LineIndex:
    """JSON objects by number.

    Args:
        contents: lines that end with a newline, in several pieces.
    """

    def __init__(self, contents: Sequence[bytes]) -> None:
        # One buffer, not a list of objects: forked workers share it, however many pictures there are.
        self._lines = b"".join(contents)
        self._ends = np.flatnonzero(np.frombuffer(self._lines, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = 0 if index == 0 else int(self._ends[index - 1]) + 1
        return json.loads(self._lines[start : int(self._ends[index])])
