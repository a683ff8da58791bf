"""Pictures that know how they were made."""

from os import PathLike
from typing import IO, Any

from PIL import Image

from ldm.io.metadata.png import png_info


class RecipeImage(Image.Image):
    """A PIL picture with its recipe in `info["parameters"]` and `info["ldm"]`; saved as PNG, it carries both.

    What PIL makes of it (`copy`, `resize`, `crop`, ...) is a plain picture again, which no recipe repeats.
    """

    @classmethod
    def of(cls, image: Image.Image, parameters: str, recipe: str) -> "RecipeImage":
        """The same pixels with a recipe.

        Args:
            image: the picture.
            parameters: how it was made, in A1111's words.
            recipe: the same as JSON, whole.
        """
        picture = cls()
        picture.__setstate__(image.__getstate__())
        picture.info |= {"parameters": parameters, "ldm": recipe}
        return picture

    def save(
        self, fp: "str | bytes | PathLike[str] | PathLike[bytes] | IO[bytes]", format: str | None = None, **params: Any
    ) -> None:
        """PIL's `save`; a PNG gets the recipe unless `pnginfo` is given, other formats have no place for it."""
        params.setdefault("pnginfo", png_info(self.info.get("parameters"), self.info.get("ldm")))
        super().save(fp, format, **params)
