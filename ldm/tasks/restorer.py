"""Pictures without damage, and larger ones, by one network in pixels: `ldm denoise`, `restore` and `upscale`.

from ldm import Restorer
Restorer.from_pretrained("restorer").denoise("photo.jpg").image.save("clean.png")
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.degradation.known_damage import KINDS, conditions, parse_damage, shares
from ldm.degradation.operations import NOISES
from ldm.engine.placement import device_for, dtype_for
from ldm.engine.precision import best_dtype
from ldm.io.folder.restorer import load_restorer
from ldm.io.locate import find_restorer
from ldm.progress import Progress, silent
from ldm.tasks.impulses import filled, struck
from ldm.tasks.picture import Picture, PictureLike, image_of
from ldm.tasks.restoring import look, restored
from ldm.tasks.upscale import back_projected

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.networks.restorer.model import Restorer as RestorerNetwork

FACTORS = (2, 4)
_ALIKE = ("gaussian", "speckle", "poisson")  # one of them is there if together they are likely; the likeliest is named
_THERE = 0.02  # a kind that is weaker, as a share of the strongest that is trained, is not worth a word


@dataclass(frozen=True)
class Restored:
    """What became of a picture.

    Attributes:
        pixels: (H, W, C) in the mode of the picture that was put in.
        found: level of each kind of damage that the network saw, strongest first; see `in_words`.
        stated: level of each kind that it was told; empty where it was left to see for itself.
        changed: whether anything was done; where not, the pixels are those that were put in.
        record: how it was made, ready for JSON.
    """

    pixels: NDArray[Any]
    found: Mapping[str, float]
    stated: Mapping[str, float]
    changed: bool
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> "Image":
        """The picture, as Pillow has it."""
        return image_of(self.pixels)

    def png(self) -> bytes:
        """The picture as a PNG, with the record in its text `restoration`."""
        import io

        from PIL.PngImagePlugin import PngInfo

        info, encoded = PngInfo(), io.BytesIO()
        info.add_itxt("restoration", json.dumps(self.record, ensure_ascii=False))
        self.image.save(encoded, "PNG", pnginfo=info)
        return encoded.getvalue()


class Restorer:
    """A network that takes damage out of pictures of any size and mode.

    Args:
        network: what `load_restorer` gave, where it shall run.
        name: of the model, for records.

    Raises:
        ValueError: it knows other kinds of damage than this version.
    """

    def __init__(self, network: "RestorerNetwork", name: str = "") -> None:
        if set(network.config.kinds) != set(KINDS):
            raise ValueError(
                f"restorer {name or 'given'} knows kinds={list(network.config.kinds)}, this version {list(KINDS)}; "
                "train it again"
            )
        self.network, self.name = network.eval(), name

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "restorer",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Open the shipped restorer, or one in the folder of a training or of its export.

        Args:
            name: `restorer`, or a folder.
            dtype: of the arithmetic; by default bf16 where the device is fast at it, else fp32.
            device: by default the best there is.

        Raises:
            FileNotFoundError: there is no such model.
            ModelFileError: it is none, or damaged.
            ValueError: an unknown type, or a device that this machine does not have.
        """
        place = device_for(device)
        kind = best_dtype(place) if dtype is None else dtype_for(dtype, place)
        return cls(load_restorer(find_restorer(str(name)), kind).to(place), str(name))

    def find(self, image: PictureLike) -> dict[str, float]:
        """The damage that the network sees in a picture: level by kind, strongest first. Raises as `Picture.of`."""
        return self._found(Picture.of(image).rgb)

    def denoise(
        self, image: PictureLike, noise: str | None = None, careful: bool = False, progress: Progress = silent
    ) -> Restored:
        """Take out noise.

        Args:
            image: any picture; its mode, alpha and 16 bits stay.
            noise: such as `gaussian=25` or `salt_and_pepper=5%`, or a kind without level; None or `auto` leaves both to
                the network, which changes no picture in which it sees no noise.
            careful: see `ldm.tasks.restoring.restored`.
            progress: of large pictures.

        Raises:
            ValueError: an unknown kind, of which it names the nearest, or a level that the network has not learned.
            OSError: a file that is not there.
        """
        stated = parse_damage(noise, NOISES)
        return self._restored("denoise", Picture.of(image), stated, careful, progress, NOISES)

    def restore(
        self, image: PictureLike, damage: str | None = None, careful: bool = False, progress: Progress = silent
    ) -> Restored:
        """Take out noise, blur, the blocks of a JPEG and the softness of an enlarged picture.

        Args:
            image: any picture; its mode, alpha and 16 bits stay.
            damage: such as `jpeg,blur` or `blur=2,gaussian=5`; kinds without level have the one that the network sees.
                None or `auto` leaves all to the network, which changes no picture in which it sees none.
            careful: see `ldm.tasks.restoring.restored`.
            progress: of large pictures.

        Raises:
            ValueError, OSError: as `denoise`.
        """
        stated = parse_damage(damage)
        return self._restored("restore", Picture.of(image), stated, careful, progress, tuple(KINDS))

    def upscale(
        self,
        image: PictureLike,
        by: int = 2,
        careful: bool = False,
        consistent: bool = False,
        progress: Progress = silent,
    ) -> Restored:
        """Make a picture larger, with the edges that are most likely; nothing is invented.

        Args:
            image: any picture; its mode, alpha and 16 bits stay.
            by: 2 or 4; 1 is the picture itself.
            careful: see `ldm.tasks.restoring.restored`.
            consistent: correct the colours until the result, made small again by means of blocks, is the picture.
            progress: of large pictures.

        Raises:
            ValueError: another factor.
            OSError: a file that is not there.
        """
        if by not in (1, *FACTORS):
            raise ValueError(f"by={by} is not what the restorer does; use {' or '.join(map(str, FACTORS))}")
        small = Picture.of(image)
        height, width = small.size
        large = small.resized(height * by, width * by)
        settings = {"by": by, "careful": careful, "consistent": consistent}
        if by == 1:
            return self._result("upscale", small, None, {}, {}, settings)
        rgb = self.run(large.rgb, {"resize": float(by)}, careful, progress)
        if consistent:
            rgb = back_projected(rgb, small.rgb)
        return self._result("upscale", small, large.with_rgb(rgb), {}, {}, settings)

    def run(
        self, rgb: Tensor, damage: Mapping[str, float], careful: bool = False, progress: Progress = silent
    ) -> Tensor:
        """The network alone: rgb (3, H, W) in [0, 1] -> restored, fp32; `damage` is level by kind, empty if unknown."""
        return restored(self.network, rgb, conditions(shares(damage, self.network.config.kinds)), careful, progress)

    def _restored(
        self,
        tool: str,
        picture: Picture,
        stated: Mapping[str, float | None] | None,
        careful: bool,
        progress: Progress,
        kinds: tuple[str, ...],
    ) -> Restored:
        found = self._found(picture.rgb)
        levels = {name: found.get(name) if level is None else level for name, level in (stated or {}).items()}
        known = {name: level for name, level in levels.items() if level is not None and KINDS[name].share(level) > 0}
        if not (known if stated is not None else found.keys() & set(kinds)):
            return self._result(tool, picture, None, found, known, {"careful": careful})
        rgb = self.run(picture.rgb, known, careful, progress)
        if (known or found).keys() == {"salt_and_pepper"}:
            pixels = self._without_impulses(picture, rgb, careful, progress)
        else:
            pixels = picture.with_rgb(rgb)
        return self._result(tool, picture, pixels, found, known, {"careful": careful})

    def _without_impulses(self, picture: Picture, rgb: Tensor, careful: bool, progress: Progress) -> NDArray[Any]:
        """Pixels that keep their bytes but where they were struck: there a second look, at the filled picture, counts.

        The first one, `rgb`, says which they are; from beside many struck pixels it sees colours less well.
        """
        mask = struck(picture, rgb)
        if not mask.all():
            rgb = self.run(filled(picture.rgb, mask), {}, careful, progress)
        return np.where(mask.numpy()[..., None], picture.with_rgb(rgb), picture.pixels)

    def _found(self, rgb: Tensor) -> dict[str, float]:
        seen, kinds = look(self.network, rgb), self.network.config.kinds
        chances = dict(zip(kinds, seen.chances.sigmoid().tolist(), strict=True))
        there = {name for name, chance in chances.items() if chance > 0.5}
        if sum(chances[name] for name in _ALIKE) > 0.5:
            there.add(max(_ALIKE, key=lambda name: chances[name]))
        levels = dict(zip(kinds, seen.levels.tolist(), strict=True))
        strength = {name: min(levels[name], 1.0) for name in there if levels[name] > _THERE}
        strongest_first = sorted(strength, key=lambda name: -strength[name])
        return {name: KINDS[name].level(strength[name]) for name in strongest_first}

    def _result(
        self,
        tool: str,
        picture: Picture,
        pixels: NDArray[Any] | None,
        found: Mapping[str, float],
        stated: Mapping[str, float],
        settings: Mapping[str, Any],
    ) -> Restored:
        """What a command did: new pixels, or those that were put in."""
        record = {
            "tool": f"ldm {tool}",
            "model": self.name,
            "stated": {name: round(level, 4) for name, level in stated.items()},
            "found": {name: round(level, 4) for name, level in found.items()},
            **settings,
            "source": Path(picture.path).name,
            "source_sha256": picture.sha256,
        }
        return Restored(picture.pixels if pixels is None else pixels, found, stated, pixels is not None, record)
