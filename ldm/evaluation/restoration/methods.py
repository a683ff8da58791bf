"""The methods of the bench: which damages each is for, and the settings among which its best is looked for."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ldm.degradation.degrade import Degrade
from ldm.degradation.known_damage import named
from ldm.degradation.operations import resized
from ldm.evaluation.restoration import filling, filters
from ldm.evaluation.restoration.bm3d import bm3d
from ldm.evaluation.restoration.damages import DAMAGES, Damaged
from ldm.evaluation.restoration.noise_statistics import anscombe, logarithmic
from ldm.evaluation.restoration.wavelet import wavelet

if TYPE_CHECKING:
    from ldm.tasks.restorer import Restorer

Value: TypeAlias = float | str
Settings: TypeAlias = Mapping[str, Value]
Restore: TypeAlias = Callable[[Damaged, Settings], Tensor]
_GAUSSIAN = ("gaussian 15", "gaussian 25", "gaussian 50")
_EVEN = (*_GAUSSIAN, "speckle 0.2", "poisson 30")
_IMPULSES = ("salt and pepper 5 %", "salt and pepper 20 %")
_JPEG = ("jpeg 10", "jpeg 30")


@dataclass(frozen=True)
class Method:
    """One way to restore pictures.

    Attributes:
        name: in tables.
        damages: the names of those that it is for.
        restore: a damaged picture and settings -> (3, H, W) in [0, 1] of the truth's size.
        grid: by setting the values that are tried; empty where there is nothing to set.
        unbiased: whether it finds the mean of what it sees, so that a row with the bias of clipping taken off belongs
            beside it.
    """

    name: str
    damages: tuple[str, ...]
    restore: Restore
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    unbiased: bool = False

    def candidates(self) -> Iterator[dict[str, Value]]:
        """All combinations of the grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def number(settings: Settings, name: str) -> float:
    """A setting that is a number."""
    return float(settings[name])


def _median(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.median(damaged.picture, int(number(settings, "size")))


def _bilateral(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.bilateral(damaged.picture, number(settings, "sd_colour"), number(settings, "sd_space"))


def _total_variation(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.total_variation(damaged.picture, number(settings, "weight"))


def _wavelet(damaged: Damaged, settings: Settings) -> Tensor:
    return wavelet(damaged.picture, number(settings, "sd"), number(settings, "strength"))


def _non_local_means(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.non_local_means(damaged.picture, number(settings, "sd"), number(settings, "strength"))


def _bm3d(damaged: Damaged, settings: Settings) -> Tensor:
    return bm3d(damaged.picture, number(settings, "sd"))


def _log_nlm(damaged: Damaged, settings: Settings) -> Tensor:
    strength = number(settings, "strength")
    return logarithmic(damaged.picture, 0.2, lambda x, sd: filters.non_local_means(x, sd, strength))


def _log_bm3d(damaged: Damaged, settings: Settings) -> Tensor:
    return logarithmic(damaged.picture, 0.2, lambda x, sd: bm3d(x, sd, number(settings, "strength")))


def _anscombe_nlm(damaged: Damaged, settings: Settings) -> Tensor:
    strength = number(settings, "strength")
    return anscombe(damaged.picture, 30, lambda x, sd: filters.non_local_means(x, sd, strength))


def _anscombe_bm3d(damaged: Damaged, settings: Settings) -> Tensor:
    return anscombe(damaged.picture, 30, lambda x, sd: bm3d(x, sd, number(settings, "strength")))


def _detect_and_fill(damaged: Damaged, settings: Settings) -> Tensor:
    window, apart = int(number(settings, "window")), number(settings, "apart")
    return filling.detect_and_fill(damaged.picture, window, apart, str(settings["fill"]))


def _wiener(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.wiener(damaged.picture, damaged.damage.blur, number(settings, "balance"))


def _richardson_lucy(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.richardson_lucy(damaged.picture, damaged.damage.blur, int(number(settings, "steps")))


def _bicubic(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.bicubic(damaged.picture, *damaged.size)


def _lanczos(damaged: Damaged, settings: Settings) -> Tensor:
    return filters.lanczos(damaged.picture, *damaged.size)


def _filled(fill: Callable[[Tensor, Tensor], Tensor]) -> Restore:
    def restore(damaged: Damaged, settings: Settings) -> Tensor:
        assert damaged.mask is not None
        return fill(damaged.picture, damaged.mask)

    return restore


def restorer_methods(restorer: "Restorer") -> dict[str, Method]:
    """`ldm restore` as two methods: told kind and level of the damage, as classical filters are, and with `auto`."""
    damages = tuple(name for name, damage in DAMAGES.items() if not damage.hole)

    def restore(damaged: Damaged, settings: Settings) -> Tensor:
        levels = dict(filter(None, map(named, Degrade.parse(damaged.damage.text).operations)))
        return _run(restorer, damaged, ",".join(f"{name}={level:g}" for name, level in levels.items()))

    def blind(damaged: Damaged, settings: Settings) -> Tensor:
        return _run(restorer, damaged, "auto")

    return {name: Method(name, damages, run) for name, run in (("restorer", restore), ("restorer (blind)", blind))}


def _run(restorer: "Restorer", damaged: Damaged, damage: str) -> Tensor:
    """What the restorer makes of a picture, which it is given in the truth's size, as a file is."""
    same = tuple(damaged.picture.shape[1:]) == damaged.size
    picture = damaged.picture if same else resized(damaged.picture, *damaged.size).clamp(0, 1)
    pixels = restorer.restore(picture, damage).pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


_STRENGTHS = (0.5, 0.75, 1.0)
_SDS = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2)
METHODS = {
    method.name: method
    for method in (
        Method("median", (*_EVEN, *_IMPULSES), _median, {"size": (3, 5, 7)}),
        Method(
            "bilateral",
            (*_EVEN, *_JPEG),
            _bilateral,
            {"sd_colour": (0.05, 0.1, 0.2, 0.4, 0.7), "sd_space": (1.0, 2.0)},
        ),
        Method("total variation", (*_EVEN, *_JPEG), _total_variation, {"weight": (0.01, 0.02, 0.04, 0.08, 0.15, 0.25)}),
        Method("wavelet", (*_EVEN, *_JPEG), _wavelet, {"sd": _SDS, "strength": (1.0, 3.0, 5.0, 8.0)}),
        Method("NLM", (*_EVEN, *_JPEG), _non_local_means, {"sd": _SDS, "strength": (0.5, 0.8)}, unbiased=True),
        Method("BM3D", (*_GAUSSIAN, *_JPEG), _bm3d, {"sd": _SDS}, unbiased=True),
        Method("log + NLM", ("speckle 0.2",), _log_nlm, {"strength": _STRENGTHS}, unbiased=True),
        Method("log + BM3D", ("speckle 0.2",), _log_bm3d, {"strength": _STRENGTHS}, unbiased=True),
        Method("Anscombe + NLM", ("poisson 30",), _anscombe_nlm, {"strength": _STRENGTHS}, unbiased=True),
        Method("Anscombe + BM3D", ("poisson 30",), _anscombe_bm3d, {"strength": _STRENGTHS}, unbiased=True),
        Method(
            "detect and fill",
            _IMPULSES,
            _detect_and_fill,
            {"window": (3, 5, 7), "apart": (0.02, 0.1, 0.2), "fill": ("median", "biharmonic")},
        ),
        Method("Wiener", ("blur 2, noise 5",), _wiener, {"balance": (0.003, 0.006, 0.012, 0.025, 0.05, 0.1)}),
        Method("Richardson-Lucy", ("blur 2, noise 5",), _richardson_lucy, {"steps": (3, 5, 8, 12, 18, 30, 50, 80)}),
        Method("bicubic", ("x2", "x4"), _bicubic),
        Method("Lanczos", ("x2", "x4"), _lanczos),
        Method("harmonic", ("hole 40",), _filled(filling.harmonic)),
        Method("biharmonic", ("hole 40",), _filled(filling.biharmonic)),
        Method("Telea", ("hole 40",), _filled(filling.telea)),
        Method("Navier-Stokes", ("hole 40",), _filled(filling.navier_stokes)),
    )
}
"""All of them; a model is one more entry, given to `restoration_bench`."""
NEED_OPENCV = ("Telea", "Navier-Stokes")
