"""Large pictures through an autoencoder tile by tile, with the group norms' statistics of the whole picture.

The middle of encoder and decoder, at the latent's resolution, is small, and attention in it sees the whole picture: it
runs once, on all of it, where it has some. Only what is at the picture's resolutions runs in tiles then, unless the
latent itself is large.

A group norm that sees one tile knows nothing of the others, so colours differ from tile to tile. All tiles are
therefore run twice: once to measure mean and variance in front of every norm, each cell counted once, and once with
these in place of a tile's own. The first pass itself runs with each tile's own, so the second is close to what the
whole picture would give, not equal to it.
"""

from collections.abc import Callable
from typing import Protocol, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.build import Autoencoder
from autoencoder.coders import Decoder, Encoder
from autoencoder.kernels import GroupNorm
from autoencoder.kl import Gaussian, KLAutoencoder
from autoencoder.tiles import Blend, Tile, Tiling, extent, shares
from autoencoder.views import with_layers
from autoencoder.vq import VQAutoencoder

Run = Callable[[Autoencoder, Tensor], Tensor]


class Decoding(Protocol):
    """What decodes a tile: an autoencoder, or the part of its decoder that comes after the middle."""

    def decode(self, z: Tensor, /) -> Tensor:
        """(B, C, h, w) -> (B, 3, h f, w f)."""


_ROWS = 16
"""Of a map, whose sums are taken together."""
Decode = Callable[[Decoding, Tensor], Tensor]
"""(what decodes, what it is given (1, C, h, w)) -> a picture (1, C', h f, w f)."""

_MOST_CELLS = 2**16
"""Of a latent whose middle is run whole: attention over all its cells is quadratic."""
_CELLS_PER_TILE = 16
"""Likewise, in tiles: the middle's maps take a twentieth of the memory, cell by cell, that all of a tile's take."""


def decode_in_tiles(autoencoder: Autoencoder, z: Tensor, tiling: Tiling, scale: int, decode: Decode) -> Tensor:
    """`decode` of latents z (B, C, h, w) that are larger than a tile: (B, C', h scale, w scale), fp32.

    Args:
        autoencoder: as it is for whole pictures.
        z: latents.
        tiling: in cells.
        scale: pixels of the finished picture per cell.
        decode: what is done with a tile, and anything beyond the autoencoder that is done to its picture.
    """
    tiles = tiling.tiles(z.shape[2], z.shape[3])
    made_of, run = z.split(1), cast(Run, decode)
    if _middle_is_whole(autoencoder, z.shape[2] * z.shape[3], tiling):
        made_of = [autoencoder.decoder.middle(autoencoder.decoder_input(each)) for each in made_of]

        def run(network: Autoencoder, part: Tensor) -> Tensor:
            return decode(_Up(cast(Decoder, network.decoder)), part)

    made = [_run(autoencoder, run, each, tiles, [tile.scaled(scale) for tile in tiles]) for each in made_of]
    return made[0] if len(made) == 1 else torch.cat(made)  # one large picture is not copied


def encode_in_tiles(autoencoder: Autoencoder, x: Tensor, tiling: Tiling, factor: int) -> Gaussian:
    """`autoencoder.encode` of pictures x (B, 3, H, W) that are larger than a tile.

    Args:
        autoencoder: as it is for whole pictures.
        x: in [-1, 1]; height and width are multiples of `factor`.
        tiling: in cells.
        factor: pixels per cell.
    """
    tiles = tiling.tiles(x.shape[2] // factor, x.shape[3] // factor)
    shown = [tile.scaled(factor) for tile in tiles]
    if _middle_is_whole(autoencoder, x.shape[2] * x.shape[3] // factor**2, tiling):
        maps = torch.cat(
            [
                _run(autoencoder, lambda network, part: cast(Encoder, network.encoder).down(part), each, shown, tiles)
                for each in x.split(1)
            ]
        )
        return autoencoder.posterior(autoencoder.encoder.middle(maps.to(x.dtype)))

    def moments(network: Autoencoder, part: Tensor) -> Tensor:
        posterior = network.encode(part)
        return torch.cat([posterior.mean, posterior.std], 1)

    mean, std = torch.cat([_run(autoencoder, moments, each, shown, tiles) for each in x.split(1)]).chunk(2, 1)
    return Gaussian(mean, 2 * std.log())


def _middle_is_whole(autoencoder: Autoencoder, cells: int, tiling: Tiling) -> TypeGuard[KLAutoencoder | VQAutoencoder]:
    fits = cells <= min(_MOST_CELLS, _CELLS_PER_TILE * tiling.size**2)
    return isinstance(autoencoder, KLAutoencoder | VQAutoencoder) and autoencoder.config.mid_attention and fits


class _Up:
    """A decoder after its middle."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def decode(self, x: Tensor, /) -> Tensor:
        return self._decoder.up(x)


def _run(network: Autoencoder, run: Run, x: Tensor, shown: list[Tile], made: list[Tile]) -> Tensor:
    """One picture (1, C, H, W), whose tiles are `shown` to the network and become those of `made`."""
    norms = [layer for layer in network.modules() if isinstance(layer, GroupNorm)]
    measured: dict[nn.Module, _Measured] = {norm: _Measured(norm) for norm in norms}
    measuring = with_layers(network, measured)
    for tile, share in zip(shown, shares(shown), strict=True) if norms else ():
        for each in measured.values():
            each.share = share.to(x.device)
        run(measuring, tile.cut(x))
    # Norms that no tile came through, such as the encoder's in decoding, have nothing to give.
    network = with_layers(network, {norm: _Given(each) for norm, each in measured.items() if each.count})
    blend: Blend | None = None
    for tile, place in zip(shown, made, strict=True):
        part = run(network, tile.cut(x)).float()
        blend = blend or Blend((*part.shape[:2], *extent(made)), part.device)
        blend.add(place, part)
    assert blend is not None
    return blend.mean


class _Measured(nn.Module):
    """A group norm as it is, which adds up what comes to it, one picture at a time."""

    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self.norm, self.share, self.silu = norm, torch.ones(1, 1), norm.silu
        self.count, self.total, self.squares = 0.0, torch.zeros(()), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, C, H, W), of a tile of which `share` (h, w) counts; returns the same shape."""
        self._add_up(x)
        y: Tensor = self.norm(x)
        return y

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `autoencoder.kernels.strips.StatisticsApart`."""
        self._add_up(x)
        return self.norm.scale_and_shift(x)

    def _add_up(self, x: Tensor) -> None:
        share = F.interpolate(self.share[None, None], x.shape[2:])[0, 0]
        sums = torch.zeros(2, x.shape[1], dtype=torch.float64)
        # Some rows at a time: whole maps in fp32, or of squares, would be as large as what tiles are there to avoid.
        for rows, part in zip(x[0].split(_ROWS, 1), share.split(_ROWS), strict=True):
            maps, weights = rows.float().flatten(1), part.flatten()
            sums += torch.stack([maps @ weights, maps.square() @ weights]).cpu()
        total, squares = sums.unflatten(1, (self.norm.num_groups, -1)).sum(2)
        self.count += share.sum().item() * x.shape[1] / self.norm.num_groups
        self.total, self.squares = self.total + total, self.squares + squares


class _Given(nn.Module):
    """A group norm by mean and variance of the whole picture, whatever it sees of it."""

    def __init__(self, measured: _Measured) -> None:
        super().__init__()
        norm, mean = measured.norm, measured.total / measured.count
        rstd = ((measured.squares / measured.count - mean.square()).clamp(min=0) + norm.eps).rsqrt()
        mean, rstd = (each.repeat_interleave(norm.num_channels // norm.num_groups) for each in (mean, rstd))
        scale = norm.weight.detach().double().cpu() * rstd
        shift = norm.bias.detach().double().cpu() - scale * mean
        self.scale, self.shift = (each.to(norm.weight)[:, None, None] for each in (scale, shift))
        self.silu = norm.silu

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns the same shape."""
        y = torch.addcmul(self.shift.to(x.device), x, self.scale.to(x.device))  # weights may wait elsewhere
        return F.silu(y, inplace=True) if self.silu else y

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `autoencoder.kernels.strips.StatisticsApart`."""
        return self.scale.flatten()[None], self.shift.flatten()[None]
