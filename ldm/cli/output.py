"""Where finished pictures go, and what they are called."""

import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.io.disk.files import write_file, write_new_file
from ldm.io.metadata.png import png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.recipe import Recipe

DEFAULT_FOLDER = Path("outputs")
_LONGEST_NAME = 80


class Destination:
    """The places of a run's pictures.

    `output` is a folder, in which nothing is ever overwritten, or a `.png` file, which is: the person named it.
    With several pictures `x.png` becomes `x-SEED.png`, and `x-SEED-2.png` for another one of the same seed.

    Nothing is written over `inputs`, whatever it is called.

    Raises ValueError for another suffix or an input, and OSError if nothing can be written there, before any picture
    is drawn.
    """

    def __init__(self, output: str | None, several: bool, inputs: Sequence[Path] = ()) -> None:
        path = DEFAULT_FOLDER if output is None else Path(output)
        named = output is not None and path.suffix != "" and not path.is_dir() and not output.endswith(("/", os.sep))
        if named and path.suffix.lower() != ".png":
            raise ValueError(
                f"--output {output} ends in {path.suffix}; use a .png file, which can carry the recipe, or a folder"
            )
        self._file = path if named else None
        self._several = several
        self._kept = {each.resolve() for each in inputs}
        self._written: set[Path] = set()
        if named and not several and path.resolve() in self._kept:
            raise ValueError(f"--output {output} is a picture that is put in; use another name")
        self.folder = path.parent if named else path
        self._probe()

    @property
    def file_name(self) -> str:
        """Of the file that was named; empty for a folder."""
        return "" if self._file is None else self._file.name

    def save(self, image: "Image", recipe: "Recipe", source: str = "", adopt: bool = False) -> Path:
        """Write one picture with its recipe; the file is whole or not there. Returns its path.

        Args:
            image: the picture.
            recipe: of it.
            source: the name of the picture that was put in, with which its own begins in a folder.
            adopt: take a file with the same bytes for the picture, which an earlier run could not note any more.
        """
        png = png_bytes(image, recipe.parameters(), recipe.to_json())
        return self._write(f"{source} {recipe.prompt}", f"{recipe.seed}", self._several, png, adopt)

    def save_changed(self, png: bytes, source: str, change: str) -> Path:
        """Write what became of one of the pictures that were put in. Returns its path.

        Args:
            png: the file's bytes.
            source: the name of the picture that was put in.
            change: what was done to it; ends the name in a folder.
        """
        return self._write(source, change if self._file is None else slug(source), self._several, png)

    def preview(self, prompt: str, seed: int) -> Path:
        """The place of a picture's preview: its name without numbers, as `NAME.preview.png`."""
        if self._file is not None:
            return self._file.with_stem(
                f"{self._file.stem}-{seed}.preview" if self._several else f"{self._file.stem}.preview"
            )
        return self.folder / f"{slug(prompt)}-{seed}.preview.png"

    def save_grid(self, images: "list[Image]", recipe: "Recipe", source: str = "") -> Path:
        """Write the contact sheet of the pictures of one prompt, with the recipe of all of them. Returns its path.

        Args:
            images: in order.
            recipe: of the first picture.
            source: see `save`.
        """
        recipe = replace(recipe, num_images_per_prompt=len(images))
        png = png_bytes(contact_sheet(images), recipe.parameters(), recipe.to_json())
        return self._write(f"{source} {recipe.prompt}", f"{recipe.seed}-grid", True, png)

    def save_statistic(self, image: "Image", recipe: "Recipe", what: str, count: int, source: str = "") -> Path:
        """Write what all samples of one prompt have in common, as `NAME.mean.png`. Returns its path.

        Args:
            image: of them.
            recipe: of the first.
            what: it is.
            count: of samples.
            source: see `save`.
        """
        recipe = replace(recipe, num_images_per_prompt=count)
        png = png_bytes(image, recipe.parameters(), recipe.to_json())
        return self._write(f"{source} {recipe.prompt}", f"{recipe.seed}", False, png, what=f".{what}")

    def _write(self, prompt: str, ending: str, several: bool, png: bytes, adopt: bool = False, what: str = "") -> Path:
        if self._file is not None:
            stem = f"{self._file.stem}-{ending}" if several else self._file.stem
            names = (self._file.with_stem(f"{stem}{copy}{what}") for copy in _copies())
            path = next(name for name in names if name not in self._written and name.resolve() not in self._kept)
            write_file(path, png)
            self._written.add(path)
            return path
        stem = f"{slug(prompt)}-{ending}"
        names = (self.folder / f"{stem}{copy}{what}.png" for copy in _copies())
        for name in takewhile(Path.exists, (self.folder / f"{stem}{copy}.png" for copy in _copies()) if adopt else ()):
            if name.read_bytes() == png:
                return name
        return write_new_file(names, png)

    def _probe(self) -> None:
        """Write a nameless file where the pictures will go, or in the nearest folder above that exists."""
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            if self._file is not None and self._file.exists():
                with open(self._file, "rb+"):
                    pass
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            shown = self._file or self.folder
            raise OSError(f"--output {shown} cannot be written: {error.strerror}; use another folder") from None


def _copies() -> Iterator[str]:
    return chain([""], (f"-{copy}" for copy in count(2)))


def contact_sheet(images: "list[Image]") -> "Image":
    """Pictures of one size, row by row in a sheet that is as square as can be, two pixels of white between."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].width + 2, images[0].height + 2
    sheet = Image.new("RGB", (columns * width - 2, rows * height - 2), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def slug(prompt: str) -> str:
    """A file name that says the prompt: letters and digits of any script, joined by hyphens."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    while len(words.encode()) > _LONGEST_NAME:  # file systems count bytes
        words = words[:-1]
    return words.strip("-") or "picture"
