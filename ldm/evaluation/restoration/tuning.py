"""Best settings of classical filters, looked for on pictures that are not those of the bench."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ldm.evaluation.restoration.damages import DAMAGES, Damage, Damaged
from ldm.evaluation.restoration.methods import Method, Settings, Value
from ldm.evaluation.restoration.noise_statistics import debias
from ldm.evaluation.restoration.similarity import psnr
from ldm.progress import Progress, silent, track


def restored(method: Method, damaged: Damaged, settings: Settings) -> list[Tensor]:
    """What the method makes of it, and, where that is of use, the same without the bias of clipping."""
    plain = method.restore(damaged, settings).clamp(0, 1)
    sd = damaged.damage.sd
    return [plain, debias(plain, sd)] if method.unbiased and sd is not None else [plain]


def best_settings(
    methods: Mapping[str, Method], pictures: Sequence[Tensor], progress: Progress = silent
) -> dict[str, dict[str, dict[str, Value]]]:
    """By method and damage, the combination of its grid with the highest mean PSNR; de-biased where that is a row.

    Args:
        methods: to be tuned; those without a grid are left out.
        pictures: (3, H, W) in [0, 1].
        progress: of the search.
    """
    jobs = [(method, DAMAGES[name]) for method in methods.values() if method.grid for name in method.damages]
    found: dict[str, dict[str, dict[str, Value]]] = {}
    for method, damage in track(jobs, "settings of filters", progress):
        found.setdefault(method.name, {})[damage.name] = _best(method, damage, pictures)
    return found


def _best(method: Method, damage: Damage, pictures: Sequence[Tensor]) -> dict[str, Value]:
    damaged = [damage(picture, number) for number, picture in enumerate(pictures)]

    def quality(settings: Settings) -> float:
        results = (restored(method, one, settings)[-1] for one in damaged)
        return float(np.mean([psnr(result, truth) for result, truth in zip(results, pictures, strict=True)]))

    return max(method.candidates(), key=quality)
