"""Packages of other people that an engine needs, imported only where it is used."""

from importlib import import_module


def require_packages(engine: str, *names: str) -> None:
    """Import the packages of an engine.

    Raises:
        ValueError: one is not installed, or cannot be loaded; says how to mend it.
    """
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(
                f"the {engine} engine needs the package {name} ({error}); pip install 'ldm[{engine}]'"
            ) from None
