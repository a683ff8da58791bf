"""Writes the API reference from the docstrings: `python docs/reference.py FOLDER`, then open FOLDER/index.html.

Needs `ldm[docs]`.
"""

import sys
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]
PACKAGES = ("ldm", "autoencoder", "conditioning")


def modules() -> list[str]:
    """The dotted name of every module; pdoc alone would stop at those that a package exports."""
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted({".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files})


def main() -> None:
    """Write the pages into the folder that the command line names."""
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules(), output_directory=Path(sys.argv[1]))


if __name__ == "__main__":
    main()
