"""Pairs of damaged and clean crops: drawings, photographs and pictures from formulas, damaged at random."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.pictures.photographs import photographs
from ldm.data.pictures.procedural import procedural_picture
from ldm.data.sources.open_source import SourceConfig
from ldm.degradation.known_damage import KINDS, conditions, shares
from ldm.degradation.noises import Gaussian, Poisson, SaltAndPepper, Speckle
from ldm.degradation.operations import Blur, Clip, Down, Jpeg, Operation, Round, Up
from ldm.degradation.random_degrade import DegradeConfig

_SPARE = 8  # pixels around a crop that are damaged along with it: half of the crops then begin at any place
_WEIGHTS = {
    "gaussian": 3.0,
    "salt_and_pepper": 1.5,
    "speckle": 1.0,
    "poisson": 1.0,
    "jpeg": 1.5,
    "blur": 1.0,
    "resize": 2.0,
}
"""How often each kind is chosen, relative to the others: Gaussian noise and enlargement have several usual levels."""
_NOISE_BESIDE_BLUR = 15.0
_LEAST_SCALE = 0.5
Random = np.random.Generator


@dataclass(frozen=True)
class RestorationDataConfig:
    """What a restorer learns from.

    Attributes:
        folder: drawings in any layout, cut from frames of twice `size`, or of photographs.
        held_out: share of the drawings that previews come from, where the folder has no `held_out/`.
        size: edge of a whole drawing, in pixels; half of the crops come from drawings twice as large.
        crop: edge of the samples, in pixels.
        photographs: share of the crops that come from the freely licensed photographs of installed packages.
        procedural: share of the crops that are pictures from formulas.
        tinted: share of the drawings that are multiplied by a colour or a gradient, which gives white grounds a colour.
        scaled: share of the crops that are made smaller first, so that edges of all sharpness occur.
        grey: share of the crops that are grey before they are damaged, whose noise then strikes all channels alike.
        clean: share of the crops that have no damage, half of which are said to have some.
        compound: share of the crops with several kinds of damage at once, see `degrade`.
        stated: share of the damaged crops whose damage the network is told.
        degrade: the kinds of compound damage.
    """

    folder: str = ""
    held_out: float = 0.02
    size: int = 128
    crop: int = 64
    photographs: float = 0.2
    procedural: float = 0.2
    tinted: float = 0.4
    scaled: float = 0.35
    grey: float = 0.1
    clean: float = 0.1
    compound: float = 0.15
    stated: float = 0.5
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        for name in ("photographs", "procedural", "tinted", "scaled", "grey", "clean", "compound", "stated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}={getattr(self, name)} is a share: use 0 to 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} is a share of the pictures: use more than 0, below 1")
        if self.photographs + self.procedural > 1:
            raise ValueError(
                f"data.photographs={self.photographs} and data.procedural={self.procedural} sum to more than 1"
            )
        if self.crop < 8 or self.crop % 4:
            raise ValueError(f"data.crop={self.crop} must be a multiple of 4, at least 8")
        if self.size < self.crop + _SPARE:
            raise ValueError(f"data.size={self.size} is too small for crops of {self.crop} px and {_SPARE} px beside")

    @property
    def all_sources(self) -> list[SourceConfig]:
        """The one source."""
        return [SourceConfig(self.folder)]


class RestorationDataset:
    """Random crops with random damage, each drawn anew.

    Args:
        pictures: the drawings.
        config: which crops, and what is done to them.
        kinds: of damage, in the order of the network's conditions.
        split: of the photographs, `train` or `held_out`.

    Attributes:
        weights: of the drawings.

    Raises:
        ValueError: photographs are wanted and no package with any is installed.
    """

    def __init__(
        self, pictures: PictureDataset, config: RestorationDataConfig, kinds: tuple[str, ...], split: str = "train"
    ) -> None:
        self._pictures, self._config, self._kinds = pictures, config, kinds
        self._photographs = photographs(split) if config.photographs else ()
        if config.photographs and not self._photographs:
            raise ValueError(
                f"data.photographs={config.photographs:g}: no package with photographs is installed; "
                "pip install 'ldm[data]', or use data.photographs=0"
            )
        self.weights = pictures.weights

    def __len__(self) -> int:
        return len(self._pictures)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One pair.

        Returns:
            "damaged" and "clean", (3, crop, crop) in [-1, 1] of 8 bits; "strength" (K,), how strong each kind of
            damage is, in [0, 1]; "conditions" (2 K,), what the network is told.
        """
        config = self._config
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        edge = config.crop + _SPARE
        clean = _turned(random, self._crop(index, generator, random, edge))
        if random.uniform() < config.grey:
            clean = (clean.mean(0, keepdim=True) * 255).round() / 255
        operations = self._damage(random, edge)
        damaged = clean
        for operation in (*operations, Clip(), Round()):
            damaged = operation.apply(damaged, generator)
        strength = shares(operations, self._kinds)
        stated = strength
        if not operations and random.uniform() < 0.5:
            stated = shares(_single(random), self._kinds)
        elif random.uniform() >= config.stated:
            stated = torch.zeros_like(strength)
        top, left = random.integers(0, _SPARE + 1, 2) if random.uniform() < 0.5 else (0, 0)
        cut = (slice(None), slice(top, top + config.crop), slice(left, left + config.crop))
        return {
            "damaged": damaged[cut].expand(3, -1, -1) * 2 - 1,
            "clean": clean[cut].expand(3, -1, -1) * 2 - 1,
            "strength": strength,
            "conditions": conditions(stated),
        }

    def _crop(self, index: int, generator: torch.Generator, random: Random, edge: int) -> Tensor:
        """A clean crop (3, edge, edge) in [0, 1] of 8 bits."""
        config = self._config
        draw = random.uniform()
        wide = edge
        if random.uniform() < config.scaled:
            wide = min(round(edge / random.uniform(_LEAST_SCALE, 1)), config.size)
        if draw < config.procedural:
            whole = torch.from_numpy(procedural_picture(random, wide).copy()).permute(2, 0, 1).float() / 255
        elif draw < config.procedural + config.photographs:
            photograph = self._photographs[int(random.integers(len(self._photographs)))]
            wide = edge * int(random.integers(1, 4))  # most are large: their whole objects are seen when smaller
            wide = min(wide, *photograph.shape[:2])
            whole = torch.from_numpy(_random_cut(random, photograph, wide).copy()).permute(2, 0, 1).float() / 255
        else:
            image = self._pictures.item(index, generator)["image"]
            whole = _random_cut(random, image.permute(1, 2, 0), wide).permute(2, 0, 1) * 0.5 + 0.5
            if random.uniform() < config.tinted:
                whole = _tinted(random, whole)
        if whole.shape[1] != edge:
            whole = F.interpolate(whole[None], (edge, edge), mode="bilinear", antialias=True)[0]
        return (whole.clamp(0, 1) * 255).round() / 255

    def _damage(self, random: Random, edge: int) -> tuple[Operation, ...]:
        """What is done to a crop; nothing for a clean one."""
        config, draw = self._config, random.uniform()
        if draw < config.clean:
            return ()
        if draw < config.clean + config.compound:
            return config.degrade.draw(0, int(random.integers(2**62)), (edge, edge)).operations[:-2]
        return _single(random)


def _single(random: Random) -> tuple[Operation, ...]:
    """One kind of damage of a level that is uniform in its range; a blur has some noise, too."""
    chances = np.array(list(_WEIGHTS.values()))
    name = str(random.choice(list(_WEIGHTS), p=chances / chances.sum()))
    kind, draw = KINDS[name], float(random.uniform())
    level = kind.weakest + draw * (kind.strongest - kind.weakest)
    match name:
        case "gaussian":
            return (Gaussian(level),)
        case "salt_and_pepper":
            return (SaltAndPepper(level),)
        case "speckle":
            return (Speckle(level),)
        case "poisson":
            return (Poisson(level),)
        case "jpeg":
            return (Jpeg(round(kind.level(draw))),)
        case "blur":
            return (Blur(max(level, 0.2)), Gaussian(float(random.uniform(0, _NOISE_BESIDE_BLUR))))
        case _:
            factor = int(random.choice([2, 4]))
            return (Down(factor), Up(factor))


def _random_cut(random: Random, picture: Any, edge: int) -> Any:
    """A random square of a picture (H, W, 3)."""
    top, left = (int(random.integers(0, length - edge + 1)) for length in picture.shape[:2])
    return picture[top : top + edge, left : left + edge]


def _tinted(random: Random, picture: Tensor) -> Tensor:
    """Multiplied by a colour or a gradient; sometimes inverted before, which makes grounds dark."""
    if random.uniform() < 0.25:
        picture = 1 - picture
    corners = torch.from_numpy(random.uniform(0, 1, (3, 2, 2))).float()
    if random.uniform() < 0.6:
        corners = corners[:, :1, :1].expand(3, 2, 2)
    size = picture.shape[1:]
    tint = F.interpolate(corners[None], (int(size[0]), int(size[1])), mode="bilinear", align_corners=True)[0]
    return picture * (1 - (1 - tint) * float(random.uniform(0.2, 1)))


def _turned(random: Random, picture: Tensor) -> Tensor:
    """One of the eight turns and mirrorings."""
    picture = picture.rot90(int(random.integers(4)), (1, 2))
    return picture.flip(2) if random.uniform() < 0.5 else picture
