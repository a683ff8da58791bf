"""Training a restorer: nearness to the clean picture, and finding kind and level of the damage."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.training.adversarial import channels_last
from autoencoder.training.objective import psnr
from autoencoder.training.perceptual import PerceptualDistance
from ldm.networks.restorer.config import DISTANCES, RestorerLossConfig
from ldm.networks.restorer.model import Found, Restorer


def _charbonnier(squared_error: Tensor, epsilon: float) -> Tensor:
    return (squared_error + epsilon**2).sqrt().mean() - epsilon


def _psnr(squared_error: Tensor, epsilon: float) -> Tensor:
    """Minus the mean PSNR of pictures in [-1, 1], bounded by epsilon's, in units of 100 dB."""
    return 0.1 * ((squared_error.flatten(1).mean(1) + epsilon**2) / 4).log10().mean()


_DISTANCES = dict(zip(DISTANCES, (_charbonnier, _psnr), strict=True))


class RestorerObjective:
    """The loss of the trained module "restorer", or of its finder alone.

    A batch holds "damaged" and "clean" (B, 3, h, w) in [-1, 1], "conditions" (B, 2 K) and "strength" (B, K); see
    `ldm.data.restoration`.
    """

    def __init__(self, restorer: Restorer, loss: RestorerLossConfig, finder_only: bool = False) -> None:
        self.config, self.finder_only = loss, finder_only
        restorer.requires_grad_(not finder_only).finder.requires_grad_()
        self.trained_modules: dict[str, nn.Module] = {"restorer": channels_last(restorer)}
        self.perceptual = channels_last(PerceptualDistance()) if loss.perceptual_weight > 0 else None

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        """The loss to differentiate, and scalars to log; see `Objective`."""
        config, clean, damaged = self.config, batch["clean"], batch["damaged"]
        restorer = self._restorer(self.trained_modules)
        if self.finder_only:
            error = finding_error(restorer.finder(damaged), batch["strength"])
            return {"loss": error, "finding": error.detach()}
        restored = restorer(damaged, batch["conditions"])
        total = _DISTANCES[config.distance]((restored - clean).square(), config.epsilon)
        there = (damaged != clean).flatten(1).any(1)
        there = there if there.any() else ~there  # a batch of clean crops is no NaN
        logs = {
            "l1": (restored.detach() - clean).abs().mean(),
            "psnr": psnr(restored.detach()[there], clean[there]),
            "input_psnr": psnr(damaged[there], clean[there]),
        }
        if self.perceptual is not None:
            share = math.ceil(config.perceptual_fraction * len(clean))
            logs["perceptual"] = self.perceptual.to(clean.device)(restored[:share], clean[:share]).mean()
            total = total + config.perceptual_weight * logs["perceptual"]
        if config.finding_weight > 0:
            logs["finding"] = finding_error(restorer.finder(damaged), batch["strength"])
            total = total + config.finding_weight * logs["finding"]
        return {"loss": total} | {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Damaged, restored and clean pictures side by side: {"restored": (B, 3, h, 3 w) in [0, 1]}."""
        ours = modules["restorer"](batch["damaged"], batch["conditions"])
        row = torch.cat([batch["damaged"], ours, batch["clean"]], dim=3)
        return {"restored": (row * 0.5 + 0.5).clamp(0.0, 1.0)}

    def _restorer(self, modules: Mapping[str, nn.Module]) -> Restorer:
        restorer = modules["restorer"]
        assert isinstance(restorer, Restorer)
        return restorer


def finding_error(found: Found, strength: Tensor) -> Tensor:
    """How badly kinds (cross entropy) and levels (of those that are there) are found.

    Args:
        found: of B pictures.
        strength: (B, K) in [0, 1], 0 where a kind is not there.
    """
    there = (strength > 0).float()
    chances = F.binary_cross_entropy_with_logits(found.chances.float(), there, reduction="none")
    levels = F.smooth_l1_loss(found.levels.float(), strength, reduction="none", beta=0.1) * there
    return (chances + levels).sum(1).mean()
