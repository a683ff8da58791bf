"""Ways to walk a grid that are made of a sampler's own steps."""

from collections.abc import Iterator

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers import Noise, Sampler, Step, levels_of


def resampled(sampler: Sampler, times: int, jump: int = 1) -> Sampler:
    """A sampler whose every stretch of steps but the last is taken several times, with the noise put back in between.

    What was filled in so gets to agree with what is held (Lugmayr et al. 2022, "RePaint"). Samplers that remember
    earlier steps forget them at the beginning of a stretch.

    Args:
        sampler: with its options.
        times: how often each stretch is taken; RePaint's r.
        jump: steps of a stretch; RePaint's j. The last stretch has what is left.
    """

    def walk(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
        levels = levels_of(denoise.process, grid)
        steps = len(levels) - 1
        stretches = [(first, min(first + jump, steps)) for first in range(0, steps, jump)]
        total, index = sum((last - first) * (times if last < steps else 1) for first, last in stretches), 0
        for first, last in stretches:
            now, then = levels[first], levels[last]
            for again in range(times if last < steps else 1):
                if again:
                    scale = now.alpha / then.alpha
                    x = scale * x + max(now.sigma**2 - (scale * then.sigma) ** 2, 0.0) ** 0.5 * noise()
                for step in sampler(denoise, x, grid[first : last + 1], noise):
                    x = step.x
                    yield Step(index, total, step.t, x, step.prediction)
                    index += 1

    return walk
