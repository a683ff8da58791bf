"""What a table of restoration comes to: of each damage the best filter, the restorer, and what a model makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldm.evaluation.restoration.methods import METHODS
from ldm.evaluation.restoration.row import Row

INPUT, CEILING, DEBIASED = "input", "autoencoder ceiling", ", de-biased"
RESTORER, BLIND, POSTERIOR = "restorer", "restorer (blind)", "posterior mean"
_NONE = "–"


@dataclass(frozen=True)
class Summary:
    """One damage, in dB of PSNR; None of what was not measured.

    Attributes:
        damage: its name.
        input: of the damaged picture.
        filters: by name the best classical filter without de-biasing, and the best with it where there is one.
        restorer, blind: with the damage stated, and without.
        posterior: of the mean of a generator's samples.
        ceiling: of its autoencoder.
    """

    damage: str
    input: float
    filters: Mapping[str, float]
    restorer: float | None
    blind: float | None
    posterior: float | None
    ceiling: float | None

    @property
    def best_filter(self) -> tuple[str, float] | None:
        """Name and PSNR."""
        return max(self.filters.items(), key=lambda each: each[1], default=None)

    @property
    def gain(self) -> float | None:
        """Of the restorer, with the damage stated, over the best filter, which has it stated too."""
        best = self.best_filter
        return None if best is None or self.restorer is None else self.restorer - best[1]


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """A summary of each damage, in the order of the rows."""
    found = []
    for damage in dict.fromkeys(row.damage for row in rows):
        of = {row.method: row.psnr.value for row in rows if row.damage == damage}
        plain = {name: of[name] for name in METHODS if name in of}
        unbiased = {name + DEBIASED: of[name + DEBIASED] for name in METHODS if name + DEBIASED in of}
        best = {max(group, key=group.__getitem__) for group in (plain, unbiased) if group}
        filters = {name: value for name, value in (plain | unbiased).items() if name in best}
        others = (of.get(name) for name in (RESTORER, BLIND, POSTERIOR, CEILING))
        found.append(Summary(damage, of[INPUT], filters, *others))
    return found


def summary_markdown(found: Sequence[Summary], damages: Sequence[str] = ()) -> str:
    """A line for each damage, or for each of those that are named.

    Args:
        found: of one table.
        damages: their names, in the order of the lines.
    """
    by_name = {each.damage: each for each in found}
    lines = [
        "| PSNR, dB | input | best filter | restorer, damage stated | blind | stated beside the filter |",
        "|---|---|---|---|---|---|",
    ]
    for one in [by_name[name] for name in damages if name in by_name] if damages else found:
        best = one.best_filter
        cells = [
            one.damage,
            f"{one.input:.2f}",
            _NONE if best is None else f"{best[1]:.2f} ({best[0]})",
            *(_NONE if value is None else f"{value:.2f}" for value in (one.restorer, one.blind)),
            _NONE if one.gain is None else f"{one.gain:+.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
