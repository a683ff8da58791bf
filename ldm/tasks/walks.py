"""Ways to walk a grid that are made of a sampler's own steps."""

from collections.abc import Iterator

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers import Noise, Sampler, Step, levels_of


def resampled(sampler: Sampler, times: int) -> Sampler:
    """A sampler whose every step but the last is taken several times, with the noise put back in between.

    What was filled in so gets to agree with what is held (Lugmayr et al. 2022, "RePaint", with jumps of one step).
    Samplers that remember earlier steps take each as their first.

    Args:
        sampler: with its options.
        times: how often each step is taken; 1 changes nothing but the memory.
    """

    def walk(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
        levels = levels_of(denoise.process, grid)
        total, index = times * (len(levels) - 2) + 1, 0
        for k in range(len(levels) - 1):
            now, then = levels[k], levels[k + 1]
            for again in range(times if k < len(levels) - 2 else 1):
                if again:
                    scale = now.alpha / then.alpha
                    x = scale * x + max(now.sigma**2 - (scale * then.sigma) ** 2, 0.0) ** 0.5 * noise()
                *_, step = sampler(denoise, x, grid[k : k + 2], noise)
                x = step.x
                yield Step(index, total, step.t, x, step.prediction)
                index += 1

    return walk
