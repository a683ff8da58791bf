"""Random masks to train inpainting on."""

import torch
from torch import Tensor

_WHOLE = 0.25
"""Share of masks that cover all, as Stable Diffusion's inpainting model was trained: it must also paint freely."""


def random_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A mask `(1, height, width)`, 1 where to be painted and 0 where to be kept; neither is ever absent but by intent.

    A quarter covers the whole picture; the others are one to four rectangles or as many brush strokes, which may
    overlap (in the manner of Suvorov et al. 2022, "LaMa", appendix).
    """
    kind, number = torch.rand(2, generator=generator).tolist()
    if kind < _WHOLE:
        return torch.ones(1, height, width)
    draw = _rectangle if kind < (1 + _WHOLE) / 2 else _stroke
    shapes = [draw(height, width, torch.rand(8, generator=generator)) for _ in range(1 + int(4 * number))]
    return torch.stack(shapes).any(0).float()[None]


def _rectangle(height: int, width: int, draws: Tensor) -> Tensor:
    """A box of a tenth to half of each edge, anywhere inside. draws: uniform `(8,)`; returns bool (height, width)."""
    high, wide, top, left = draws[:4].tolist()
    size = [max(1, round((0.1 + 0.4 * share) * edge)) for share, edge in ((high, height), (wide, width))]
    start = [
        int(share * (edge - length + 1)) for share, edge, length in zip((top, left), (height, width), size, strict=True)
    ]
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[start[0] : start[0] + size[0], start[1] : start[1] + size[1]] = True
    return mask


def _stroke(height: int, width: int, draws: Tensor) -> Tensor:
    """A bent line of two parts, thick and with round ends. draws: uniform `(8,)`; returns bool (height, width)."""
    corners = draws[:6].view(3, 2) * torch.tensor([height, width])
    radius = max(0.5, (0.03 + 0.07 * draws[6].item()) * min(height, width))
    cells = torch.stack(torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"), -1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    for start, end in ((corners[0], corners[1]), (corners[1], corners[2])):
        direction = end - start
        share = ((cells - start) @ direction / direction.square().sum().clamp(min=1e-6)).clamp(0, 1)
        mask |= (cells - start - share[..., None] * direction).norm(dim=-1) <= max(radius, 0.75)
    return mask
