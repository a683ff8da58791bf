"""Several prompts for one picture, each with a weight of its own."""

from collections.abc import Sequence

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser
from ldm.guidance.chain import fit_batch
from ldm.guidance.interval import check_finite
from ldm.guidance.mixture import Mixture, MixtureWeight


class Composition(Mixture):
    """u + sum of w_i (c_i - u), u the negative prompt's prediction (Liu et al. 2022, arXiv:2206.01714, eq. 11).

    With classifier-free guidance around it each prompt is guided by scale times its weight, as A1111's `AND`. A single
    prompt of weight 1 is that prompt.

    Args:
        denoiser: conditioned on any of the prompts, batch B.
        negative: the conditioning of u, batch B or 1; not run where the weights add up to 1. The same object as
            guidance's costs no pass of its own.
        prompts: (conditioning of batch B or 1, weight); negative weights push away. At least one.

    Raises:
        ValueError: no prompts, a weight that is no finite number, or batch sizes that differ.
    """

    def __init__(
        self, denoiser: ConditionalDenoiser, negative: Conditioning, prompts: Sequence[tuple[Conditioning, float]]
    ) -> None:
        super().__init__(denoiser)
        if not prompts:
            raise ValueError("prompts is empty; give at least one, or use the denoiser itself")
        for _, weight in prompts:
            check_finite("the weight of a prompt", weight)
        self._conditionings: list[tuple[Conditioning | None, MixtureWeight]] = [
            (fit_batch(conditioning, denoiser, "a prompt"), weight) for conditioning, weight in prompts
        ]
        rest = 1 - sum(weight for _, weight in prompts)
        if abs(rest) > 1e-9:
            self._conditionings.append((fit_batch(negative, denoiser), rest))

    def _parts(self, x: Tensor) -> list[tuple[Conditioning | None, MixtureWeight]]:
        return self._conditionings
