"""Plots a curve as text in a terminal."""

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def plot(values: Sequence[float], width: int = 64, height: int = 6) -> list[str]:
    """`values` over equal steps as `height` lines of at most `width` columns, with the range at the left.

    Where there are more values than columns, a column is the mean of its share of them.
    """
    if not values:
        return []
    columns = min(width, len(values))
    edges = [i * len(values) // columns for i in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    # The lowest point still shows: one eighth of the first line.
    heights = [1 + round((mean - low) / ((high - low) or 1.0) * (8 * height - 1)) for mean in means]
    labels = {height - 1: f"{high:.4g}", 0: f"{low:.4g}"}
    room = max(map(len, labels.values()))
    return [
        f"{labels.get(row, ''):>{room}} ┤" + "".join(_EIGHTHS[min(max(h - 8 * row, 0), 8)] for h in heights).rstrip()
        for row in reversed(range(height))
    ]
