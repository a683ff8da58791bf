"""A picture that is put in: any form and mode, upright, with a name for its bytes; and the way back to its mode."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ldm.io.metadata.png import open_picture
from ldm.operators.kinds import LUMA

if TYPE_CHECKING:
    from PIL.Image import Image

PictureLike: TypeAlias = Union[str, Path, "Image", NDArray[Any], Tensor, "Picture"]
"""A file, a Pillow picture, an array (H, W) or (H, W, 1..4), or a tensor ((1), 1 | 3 | 4, H, W) in [0, 1]."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_LUMA = torch.tensor(LUMA).view(3, 1, 1)
_NEAREST = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB", "PA": "RGBA"}
_NEAREST |= {"RGBa": "RGBA", "La": "LA"}
_EXACT = {"P", "PA", "1"}  # palettes and bits, whose colours stay what they are
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it came in.

    Attributes:
        pixels: (H, W, C) of uint8 with C of L, LA, RGB or RGBA, or (H, W, 1) of uint16.
        sha256: of the file's bytes; of mode, size and pixels where there is no file.
        path: of the file; empty where there is none.
    """

    pixels: NDArray[Any]
    sha256: str
    path: str = ""

    @classmethod
    def of(cls, given: PictureLike) -> "Picture":
        """The picture in anything that people have pictures in; its EXIF rotation is applied.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no picture, too large for one, or an array of another form.
        """
        if isinstance(given, Picture):
            return given
        if isinstance(given, str | Path):
            path = Path(given)
            with open_picture(path) as image:
                pixels = _upright(image, str(path))
            return cls(pixels, file_sha256(path), str(path))
        if isinstance(given, Tensor | np.ndarray):
            return cls.from_pixels(_of_tensor(given) if isinstance(given, Tensor) else _of_array(given))
        if hasattr(given, "getexif"):
            return cls.from_pixels(_upright(given, "the picture"))
        raise ValueError(f"{type(given).__name__} is no picture; give a path, a Pillow picture, an array or a tensor")

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any]) -> Self:
        """A picture of which there is no file."""
        pixels = np.ascontiguousarray(pixels)
        return cls(pixels, hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).hexdigest())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def mode(self) -> str:
        """Pillow's name of what the pixels are: L, LA, RGB, RGBA or I;16."""
        return "I;16" if self.pixels.dtype == np.uint16 else _MODES[self.pixels.shape[2]]

    @cached_property
    def rgb(self) -> Tensor:
        """The colours (3, H, W) in [0, 1], fp32, on white where there is alpha."""
        if self.alpha is None:
            return self._values.expand(3, -1, -1)
        return self._values[:-1].expand(3, -1, -1) * self.alpha + (1 - self.alpha)

    @cached_property
    def alpha(self) -> Tensor | None:
        """The opacity (1, H, W) in [0, 1]; None where all is opaque by its mode."""
        return self._values[-1:] if self.pixels.shape[2] in (2, 4) else None

    def image(self) -> "Image":
        """The picture as Pillow has it."""
        return image_of(self.pixels)

    def with_rgb(self, rgb: Tensor) -> NDArray[Any]:
        """Pixels in this picture's mode, with other colours under its own alpha: the inverse of `rgb`.

        Where it is fully transparent, nothing shows and its own colours stay.

        Args:
            rgb: (3, H, W) in [0, 1], as on white.
        """
        rgb = rgb.float().cpu()
        if self.alpha is not None:
            rgb = torch.where(self.alpha > 0, (rgb - (1 - self.alpha)) / self.alpha.clamp(min=1e-6), rgb)
        colours = rgb if self.pixels.shape[2] >= 3 else (_LUMA * rgb).sum(0, keepdim=True)
        most = np.iinfo(self.pixels.dtype).max
        changed = (colours.clamp(0, 1) * most).round().permute(1, 2, 0).numpy().astype(self.pixels.dtype)
        if self.alpha is None:
            return changed
        hidden = self.pixels[..., -1:] == 0
        return np.concatenate([np.where(hidden, self.pixels[..., :-1], changed), self.pixels[..., -1:]], axis=2)

    def cropped(self, box: Sequence[int]) -> "Picture":
        """Its part between left, top, right and bottom."""
        left, top, right, bottom = box
        return replace(self, pixels=self.pixels[top:bottom, left:right])

    def resized(self, height: int, width: int) -> "Picture":
        """The picture in another size, resampled smoothly with its colours weighted by their alpha."""
        if (height, width) == self.size:
            return self
        values = self._values
        if self.alpha is not None:
            values = torch.cat([values[:-1] * self.alpha, self.alpha])
        values = resize(values, height, width)
        if self.alpha is not None:
            values = torch.cat([values[:-1] / values[-1:].clamp(min=1e-6), values[-1:]])
        most = np.iinfo(self.pixels.dtype).max
        pixels = (values.clamp(0, 1) * most).round().permute(1, 2, 0).numpy().astype(self.pixels.dtype)
        return replace(self, pixels=pixels)

    @cached_property
    def _values(self) -> Tensor:
        """All channels (C, H, W) in [0, 1], fp32."""
        most = np.iinfo(self.pixels.dtype).max
        return torch.from_numpy(self.pixels.astype(np.float32)).permute(2, 0, 1) / most


def image_of(pixels: NDArray[Any]) -> "Image":
    """Pixels (H, W, C) -> a Pillow picture."""
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def file_sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Numbers (C, H, W) in another size: bicubic, and antialiased where it becomes smaller."""
    if tuple(values.shape[1:]) == (height, width):
        return values
    return F.interpolate(values[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


def mask_of(given: PictureLike) -> Tensor:
    """A mask (H, W) in [0, 1] from a picture: white counts, black does not; where it is transparent it is black."""
    if isinstance(given, Tensor) and given.ndim == 2:
        given = given[None]
    picture = Picture.of(given)
    grey = picture._values[0] if picture.pixels.shape[2] < 3 else (_LUMA * picture._values[:3]).sum(0)
    return grey.clamp(0, 1) if picture.alpha is None else grey.clamp(0, 1) * picture.alpha[0]


def _upright(image: "Image", name: str) -> NDArray[Any]:
    """The pixels (H, W, C) of a Pillow picture, turned as its EXIF says, in a mode that is kept."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        pixels = np.asarray(image)
        if mode == "F":  # nobody says of what; numbers up to 1 are shares
            pixels = (pixels.clip(0) * (65535 if pixels.max(initial=0) <= 1 else 257)).round()
        pixels = pixels.clip(0, 65535).astype(np.uint16)[..., None]
        kept = "I;16"
    else:
        kept = mode if mode in _MODES.values() else _NEAREST.get(mode, "RGB")
        if mode == "P":
            kept = "RGBA" if "transparency" in image.info else "RGB"
        pixels = np.array(image if kept == mode else image.convert(kept))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if kept != mode and mode not in _EXACT and not mode.startswith("I"):
        _log.warning("%s is %s and is read as %s", name, mode, kept)
    if 0 in pixels.shape:
        raise ValueError(f"{name} has no pixels")
    return pixels


def _of_array(array: NDArray[Any]) -> NDArray[Any]:
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in _MODES or 0 in array.shape:
        raise ValueError(f"an array {array.shape} is no picture; give (H, W), or (H, W, C) with C of 1 to 4")
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.shape[2] == 1):
        return array
    if array.dtype == np.uint16:
        _log.warning("colours of 16 bits are read as 8 bits, which is all that a PNG of a model has")
        return (array / 257).round().astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"an array of {array.dtype} is no picture; give uint8, uint16, or floats in [0, 1]")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ValueError(f"the picture has values from {array.min():g} to {array.max():g}; use 0 to 1")
    return (array * 255).round().astype(np.uint8)


def _of_tensor(tensor: Tensor) -> NDArray[Any]:
    if tensor.ndim == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in _MODES:
        raise ValueError(f"a tensor {tuple(tensor.shape)} is no picture; give (C, H, W) with C of 1, 3 or 4")
    values = tensor.detach().cpu()
    return _of_array((values.float() if values.is_floating_point() else values).permute(1, 2, 0).numpy())
