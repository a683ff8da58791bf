"""Large pictures through an autoencoder tile by tile, with the group norms' statistics of the whole picture.

A group norm that sees one tile knows nothing of the others, so colours differ from tile to tile. All tiles are
therefore run twice: once to measure mean and variance in front of every norm, each cell counted once, and once with
these in place of a tile's own. The first pass itself runs with each tile's own, so the second is close to what the
whole picture would give, not equal to it. Attention sees one tile.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.build import Autoencoder
from autoencoder.kernels import GroupNorm
from autoencoder.kl import Gaussian
from autoencoder.tiles import Blend, Tile, Tiling, extent, shares
from autoencoder.views import with_layers

Decode = Callable[[Autoencoder, Tensor], Tensor]
"""(autoencoder, latents (1, C, h, w)) -> a picture (1, C', h f, w f)."""


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
    made = [_run(autoencoder, decode, each, tiles, [tile.scaled(scale) for tile in tiles]) for each in z.split(1)]
    return made[0] if len(made) == 1 else torch.cat(made)  # one large picture is not copied


def encode_in_tiles(autoencoder: Autoencoder, x: Tensor, tiling: Tiling, factor: int) -> Gaussian:
    """`autoencoder.encode` of pictures x (B, 3, H, W) that are larger than a tile.

    Args:
        autoencoder: as it is for whole pictures.
        x: in [-1, 1]; height and width are multiples of `factor`.
        tiling: in cells.
        factor: pixels per cell.
    """

    def moments(network: Autoencoder, part: Tensor) -> Tensor:
        posterior = network.encode(part)
        return torch.cat([posterior.mean, posterior.std], 1)

    tiles = tiling.tiles(x.shape[2] // factor, x.shape[3] // factor)
    shown = [tile.scaled(factor) for tile in tiles]
    mean, std = torch.cat([_run(autoencoder, moments, each, shown, tiles) for each in x.split(1)]).chunk(2, 1)
    return Gaussian(mean, 2 * std.log())


def _run(network: Autoencoder, run: Decode, x: Tensor, shown: list[Tile], made: list[Tile]) -> Tensor:
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
        self.norm, self.share = norm, torch.ones(1, 1)
        self.count, self.total, self.squares = 0.0, torch.zeros(()), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, C, H, W), of a tile of which `share` (h, w) counts; returns the same shape."""
        share = F.interpolate(self.share[None, None], x.shape[2:]).flatten()
        # Channel by channel: a whole map of squares would be as large as what tiles are there to avoid.
        maps = x[0].float().flatten(1)
        sums = torch.stack([torch.stack([each.dot(share), each.square().dot(share)]) for each in maps])
        total, squares = sums.cpu().double().unflatten(0, (self.norm.num_groups, -1)).sum(1).T
        self.count += share.sum().item() * x.shape[1] / self.norm.num_groups
        self.total, self.squares = self.total + total, self.squares + squares
        y: Tensor = self.norm(x)
        return y


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
