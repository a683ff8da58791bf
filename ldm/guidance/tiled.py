"""Pictures larger than a network sees at once: it predicts tile by tile, and the predictions are blended."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from autoencoder.tiles import Blend, Tile, Tiling
from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.around import Around
from ldm.networks.options import NetworkOptions


class TiledDenoiser(Around):
    """A `ConditionalDenoiser` that shows the wrapped one a tile at a time (Bar-Tal et al. 2023, "MultiDiffusion").

    The x0 of all tiles are averaged under a window, and eps follows from the mean, so any sampler may call it, and
    keeps what it remembers per picture. A tile has its part of `Conditioning.concat`; hooks see one tile at a time.
    Everything else, such as regions and guidance, is put around this denoiser and sees whole pictures. A picture that
    is no larger than a tile is predicted in one piece, bit for bit.

    Args:
        denoiser: conditioned on whole pictures, batch B.
        tiling: in cells of the latent.
        jitter: move the borders between tiles from step to step, by the time alone: no seed, the same in every run.
    """

    def __init__(self, denoiser: ConditionalDenoiser, tiling: Tiling, jitter: bool = False) -> None:
        super().__init__(denoiser)
        self._tiling, self._jitter = tiling, jitter

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """The wrapped denoiser's for a tile, as hooks see no more of a picture."""
        return super().token_grid(layer, min(height, self._tiling.size), min(width, self._tiling.size))

    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        options: Sequence[NetworkOptions] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`; one network call per tile.

        Raises:
            ValueError: residuals for more than one tile.
        """
        random = Random(repr(t))
        shift = (random.random(), random.random()) if self._jitter else (0.0, 0.0)
        tiles = self._tiling.tiles(x.shape[-2], x.shape[-1], shift)
        if len(tiles) == 1:
            return self._denoiser.predict(x, t, conditionings, options)
        if any(each.residuals is not None for each in options):
            raise ValueError("a side network (ControlNet) sees whole pictures; draw without tiles")
        blend = Blend((len(conditionings), *x.shape), x.device)
        for tile in tiles:
            parts = [self._cut(conditioning, tile) for conditioning in conditionings]
            made = self._denoiser.predict(tile.cut(x), t, parts, options)
            blend.add(tile, torch.stack([prediction.x0 for prediction in made]))
        alpha, sigma = (level.item() for level in self.process.levels(t))
        return [Prediction(x0, (x.float() - alpha * x0) / sigma) for x0 in blend.mean]

    def _cut(self, conditioning: Conditioning | None, tile: Tile) -> Conditioning | None:
        own = self._denoiser.conditioning if conditioning is None else conditioning
        return conditioning if own is None or own.concat is None else replace(own, concat=tile.cut(own.concat))
