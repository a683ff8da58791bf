"""Prompts that hold for a part of the picture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm.io.metadata.png import open_picture

Box = tuple[float, float, float, float]
"""left, top, right, bottom as fractions of the picture."""


@dataclass(frozen=True, eq=False)
class RegionalPrompt:
    """A prompt that holds where its mask is white.

    Attributes:
        prompt: what to draw there.
        mask: (H, W) in [0, 1], of any size; it is averaged down to the latent's. Soft edges blend.
        file: where the mask comes from; recipes of pictures name it.
    """

    prompt: str
    mask: Tensor
    file: str = ""

    @classmethod
    def from_file(cls, path: str | Path, prompt: str) -> "RegionalPrompt":
        """A prompt with a mask from a picture file: white counts, black does not.

        Raises:
            OSError: there is no such file.
            ValueError: it is no picture.
        """
        with open_picture(Path(path)) as image:
            grey = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).float()
            return cls(prompt, grey.reshape(image.height, image.width) / 255, str(path))


def box_mask(box: Box, cells: int = 512) -> Tensor:
    """A mask (cells, cells) that is 1 inside the box."""
    left, top, right, bottom = (round(edge * cells) for edge in box)
    mask = torch.zeros(cells, cells)
    mask[top:bottom, left:right] = 1
    return mask
