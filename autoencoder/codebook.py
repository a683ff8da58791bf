"""Vector quantisation with a learned codebook (van den Oord et al. 2017, arXiv:1711.00937, section 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DISTANCES = 2**24  # at once, 64 MiB: a batch of 8 at 64 x 64 cells has 16 times as many to 8192 codes


@dataclass(frozen=True)
class Quantized:
    """Latents replaced by their nearest codes.

    Attributes:
        codes: (B, D, h, w); a gradient at the codes passes to the latents as it is (straight-through estimator).
        indices: (B, h, w) long, which codes they are.
        codebook_loss: mean of (code - latent)^2 where only codes have a gradient (eq. 3, second term).
        commitment_loss: the same number where only latents have one (eq. 3, third term without its weight).
    """

    codes: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Codebook(nn.Module):
    """`size` vectors of length `dim`. The parameter is named as in diffusers' VectorQuantizer."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / size, 1.0 / size)

    def forward(self, z: Tensor) -> Quantized:
        """z: (B, D, h, w) -> `Quantized`, in fp32."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float().movedim(1, -1)
            indices = self.nearest(z.detach())
            chosen = F.embedding(indices, self.embedding.weight.float())
            codebook_loss = F.mse_loss(chosen, z.detach())
            commitment_loss = F.mse_loss(z, chosen.detach())
            codes = z + (chosen - z).detach()
        return Quantized(codes.movedim(-1, 1), indices, codebook_loss, commitment_loss)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """z: (..., D) -> indices (...) of the codes at the least Euclidean distance; of equals the first."""
        # From the codes' own centre: the difference of large numbers would lose the small distances between codes.
        centre = self.embedding.weight.float().mean(0)
        codes = self.embedding.weight.float() - centre
        square = codes.square().sum(1)
        rows = max(1, _DISTANCES // len(codes))
        # |z - e|^2 without |z|^2, which is the same for every code.
        parts = [(square - 2.0 * part @ codes.T).argmin(1) for part in (z - centre).flatten(0, -2).split(rows)]
        return torch.cat(parts).view(z.shape[:-1])
