"""`a AND b :0.7`: several prompts for one picture, each with its own weight of guidance."""

import re

from conditioning.prompt.fragments import Fragment

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))$")


def compose(text: str) -> tuple[Fragment, ...]:
    """The prompts that `AND` joins, with the weights at their ends, 1 where there is none; at least one.

    Composable diffusion (Liu et al. 2022, arXiv:2206.01714, eq. 11) in A1111's notation: each prompt's conditional
    minus the unconditional prediction is scaled by its weight. Negative weights push away. Only capital letters join.
    Unlike A1111, which reads `a train at 10:30` at 30 times the guidance, a prompt without `AND` has no such weight.
    """
    parts = _AND.split(text)
    if len(parts) == 1:
        return (Fragment(text),)
    return tuple(_weighted(part.rstrip()) for part in parts)


def _weighted(text: str) -> Fragment:
    found = _WEIGHT.search(text)
    return Fragment(text[: found.start()].rstrip(), float(found[1])) if found else Fragment(text)
