"""A restoring network run over a picture of any size: in tiles that are exactly parts of the whole."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ldm.networks.restorer.model import Found, Restorer
from ldm.progress import Progress, silent

TILE = 640
"""Edge in pixels of what a tile gives; the network sees its margin besides, so memory does not grow with pictures."""
_SEEN, _MOST_SEEN = 256, 16  # edge and number of the tiles in which damage is looked for
_TURNS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


@torch.inference_mode()
def restored(
    network: Restorer,
    rgb: Tensor,
    conditions: Tensor,
    careful: bool = False,
    progress: Progress = silent,
    tile: int = TILE,
) -> Tensor:
    """rgb (3, H, W) in [0, 1] -> the same without damage, fp32, clamped to [0, 1].

    Args:
        network: where it runs.
        rgb: the picture, on the CPU.
        conditions: (2 K,), see `Restorer.forward`.
        careful: the mean of what becomes of all eight turns and mirror images (Lim et al. 2017, section 3.4), which is
            a little better, eight times slower, and turns with the picture.
        progress: of the tiles.
        tile: edge of what each gives, in pixels; a multiple of the network's stride.
    """
    turns = _TURNS if careful else _TURNS[:1]
    count, done = len(turns) * len(list(_boxes(rgb, tile))), 0
    total: Tensor | None = None
    for turn in turns:
        side = _turned(rgb, *turn)
        made = torch.empty_like(side)
        for top, bottom, left, right in _boxes(side, tile):
            made[:, top:bottom, left:right] = _tile(network, side, conditions, (top, bottom, left, right))
            done += 1
            if count > len(_TURNS):  # of less there is nothing to wait for
                progress("restoring", done, count)
        made = _turned_back(made, *turn)
        total = made if total is None else total.add_(made)
    assert total is not None
    return total.div_(len(turns)).clamp_(0, 1)


@torch.inference_mode()
def look(network: Restorer, rgb: Tensor) -> Found:
    """The damage of rgb (3, H, W) in [0, 1], of which nothing is known, by tiles that are spread over it."""
    boxes = list(_boxes(rgb, _SEEN))
    count = min(_MOST_SEEN, len(boxes))
    chosen = [boxes[i * len(boxes) // count] for i in range(count)]
    weights = torch.tensor([float((bottom - top) * (right - left)) for top, bottom, left, right in chosen])
    found = [network.finder(_shown(network, rgb[:, a:b, c:d])) for a, b, c, d in chosen]
    weights = (weights / weights.sum())[:, None]
    chances, levels = (torch.cat([getattr(one, name) for one in found]).cpu() for name in ("chances", "levels"))
    return Found((chances * weights).sum(0), (levels * weights).sum(0))


def _tile(network: Restorer, rgb: Tensor, conditions: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """What the network makes of the pixels of a box, in [0, 1], which it sees with its margin around them."""
    top, bottom, left, right = box
    y, x = max(0, top - network.margin), max(0, left - network.margin)
    part = rgb[:, y : bottom + network.margin, x : right + network.margin]
    shown = _shown(network, part)
    out = network(shown, conditions[None].to(shown.device))
    return (out[0, :, top - y : bottom - y, left - x : right - x] * 0.5 + 0.5).to(rgb.device)


def _shown(network: Restorer, rgb: Tensor) -> Tensor:
    """(3, h, w) in [0, 1] as networks see pictures, where the network is."""
    return rgb[None].to(network.conv_in.weight.device) * 2 - 1


def _boxes(picture: Tensor, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left and right of the squares that a picture (3, H, W) is made of, row by row."""
    height, width = picture.shape[1:]
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield top, min(top + tile, height), left, min(left + tile, width)


def _turned(picture: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(3, H, W) mirrored, then turned by so many right angles."""
    picture = picture.flip(2) if mirrored else picture
    return picture.rot90(turns, (1, 2)) if turns else picture


def _turned_back(picture: Tensor, turns: int, mirrored: bool) -> Tensor:
    """The inverse of `_turned`."""
    picture = picture.rot90(-turns, (1, 2)) if turns else picture
    return picture.flip(2) if mirrored else picture
