"""A perceptual distance between pictures in the style of LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.training.efficientnet import EfficientNetLite0


class PerceptualDistance(nn.Module):
    """Squared distance of EfficientNet-lite0 features, unit length per position: mean over positions, sum over layers.

    LPIPS with uniform weights in the place of the learned ones. The network is frozen, yet gradients flow through it to
    the first picture.

    Args:
        stages: stages whose outputs are compared (5: strides 2, 4, 8, 16, 16).
    """

    def __init__(self, stages: int = 5) -> None:
        super().__init__()
        self.network = EfficientNetLite0.pretrained(stages)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x, target: (B, 3, H, W) in [-1, 1] -> distance (B,) in fp32, differentiable in x; target is a constant."""
        with torch.no_grad():
            wanted = [unit_length(feature) for feature in self.network.features(target)]
        distance = torch.zeros(len(x), device=x.device)
        for feature, goal in zip(self.network.features(x), wanted, strict=True):
            distance = distance + (unit_length(feature) - goal).square().sum(1).mean((1, 2))
        return distance


def unit_length(feature: Tensor) -> Tensor:
    """feature: (B, C, h, w) -> fp32, divided at every position by its length over the channels."""
    return F.normalize(feature.float(), dim=1, eps=1e-6)
