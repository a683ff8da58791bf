"""Folders that come with the package beside its code: in a checkout, or where pip put them. Light to import."""

import site
import sys
from pathlib import Path

_ABOVE = Path(__file__).parents[3]


def installed_folder(checkout: str, share: str) -> Path:
    """A folder of the repository, wherever this package was installed from it.

    Args:
        checkout: its place in the repository.
        share: its place below `share`, see `data-files` in pyproject.toml.
    """
    if (_ABOVE / "pyproject.toml").is_file():  # else it is a folder of packages, which may hold anything
        return _ABOVE / checkout
    roots = (_ABOVE, Path(sys.prefix), Path(site.USER_BASE or sys.prefix))  # --target, an environment, --user
    places = [root / "share" / share for root in roots]
    return next((place for place in places if place.is_dir()), places[1])
