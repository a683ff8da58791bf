"""Renaming weights by the module they belong to."""

from collections.abc import Mapping


def rename(name: str, modules: Mapping[str, str]) -> str | None:
    """A weight's name with the longest module name at its beginning replaced; None if no module of `modules` fits."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if module in modules:
            return ".".join([modules[module], *parts[end:]])
    return None


def inverse(modules: Mapping[str, str]) -> dict[str, str]:
    """The same table the other way round.

    Raises:
        ValueError: two modules have one name.
    """
    turned = {ours: file for file, ours in modules.items()}
    if len(turned) != len(modules):
        raise ValueError("two modules are mapped to one name")
    return turned
