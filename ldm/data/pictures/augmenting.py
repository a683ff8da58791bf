"""Pictures and captions varied as they are loaded; every choice is drawn from the sample's own generator."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DRAWS = 7
_GREY = (0.299, 0.587, 0.114)  # Rec. 601


@dataclass(frozen=True)
class AugmentConfig:
    """How training samples are varied. All off by default.

    Attributes:
        flip: share of pictures that are mirrored left to right, in [0, 1]. Not where left and right have a meaning.
        crop_scale: samples are random parts with this share of the whole's area or more, in (0, 1]; 1 takes the whole.
            Pictures are kept large enough that no part is enlarged more than the picture itself is.
        colour: largest relative change of brightness, contrast and saturation, in [0, 1).
        shuffle_tags: put the parts of a caption between commas in a random order.
        keep_tags: so many parts at the beginning stay in their place and are never left out.
        drop_tags: share of the other parts that is left out, in [0, 1].
    """

    flip: float = 0.0
    crop_scale: float = 1.0
    colour: float = 0.0
    shuffle_tags: bool = False
    keep_tags: int = 0
    drop_tags: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("flip", 0 <= self.flip <= 1),
            ("crop_scale", 0 < self.crop_scale <= 1),
            ("colour", 0 <= self.colour < 1),
            ("drop_tags", 0 <= self.drop_tags <= 1),
        ):
            if not allowed:
                raise ValueError(f"data.augment.{name}={getattr(self, name)} is out of range; use a share from 0 to 1")
        if self.keep_tags < 0:
            raise ValueError(f"data.augment.keep_tags={self.keep_tags} is negative; use 0 or more")
        if self.keep_tags and not self.changes_captions:
            raise ValueError(f"data.augment.keep_tags={self.keep_tags} needs shuffle_tags=true or drop_tags above 0")

    @property
    def changes_pixels(self) -> bool:
        """Whether a picture looks different each time."""
        return self.flip > 0 or self.crop_scale < 1 or self.colour > 0

    @property
    def changes_captions(self) -> bool:
        """Whether a caption reads different each time."""
        return self.shuffle_tags or self.drop_tags > 0


@dataclass(frozen=True)
class Cut:
    """The part of a frame that a sample shows, in the frame's pixels, and whether it is mirrored then."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


def draw_cut(config: AugmentConfig, frame: tuple[int, int], draws: list[float]) -> Cut:
    """A part of a frame (height, width) for the first four of `DRAWS` uniform numbers: area, row, column, mirror."""
    scale = (config.crop_scale + (1 - config.crop_scale) * draws[0]) ** 0.5
    height, width = (max(1, round(scale * edge)) for edge in frame)
    top, left = int(draws[1] * (frame[0] - height + 1)), int(draws[2] * (frame[1] - width + 1))
    return Cut(top, left, height, width, draws[3] < config.flip)


def tint(image: Tensor, amount: float, draws: list[float]) -> Tensor:
    """image (3, H, W) in [-1, 1] with brightness, contrast and saturation changed by three uniform numbers.

    Each is multiplied by a factor in [1 - amount, 1 + amount], as torchvision's ColorJitter does, in this order.
    """
    brightness, contrast, saturation = (1 + amount * (2 * draw - 1) for draw in draws)
    pixels = (image / 2 + 0.5) * brightness
    weights = torch.tensor(_GREY)[:, None, None]
    pixels = pixels.clamp(0, 1)
    mean = (pixels * weights).sum(0).mean()
    pixels = (mean + contrast * (pixels - mean)).clamp(0, 1)
    grey = (pixels * weights).sum(0, keepdim=True)
    return (grey + saturation * (pixels - grey)).clamp(0, 1) * 2 - 1


def vary_caption(caption: str, config: AugmentConfig, draw: float) -> str:
    """The caption with its parts between commas left out and shuffled as one uniform number decides.

    At least one part is left.
    """
    if not config.changes_captions:
        return caption
    seed = int.from_bytes(hashlib.sha256(draw.hex().encode()).digest()[:8], "big")
    random = np.random.Generator(np.random.Philox(key=seed))
    tags = [tag.strip() for tag in caption.split(",")]
    kept, others = tags[: config.keep_tags], tags[config.keep_tags :]
    staying = random.uniform(size=len(others)) >= config.drop_tags
    order = random.permutation(len(others)) if config.shuffle_tags else np.arange(len(others))
    chosen = [others[i] for i in order if staying[i]]
    if not kept and not chosen and others:
        chosen = [others[order[0]]]
    return ", ".join(kept + chosen)
