"""A small network for engines, what it is called with, and how their outputs are compared."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters import low_ranks, unet_layers
from torch import Tensor, nn
from torch.nn import functional as F
from unet_twins import SD1, inputs

from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.engine.choose import engine_failure, engine_for
from ldm.engine.converted import ConvertedEngine
from ldm.networks.unet import UNet, UNetConfig

SMALL = replace(SD1, widths=(8, 16), transformer_layers=(1, 0), num_heads=(1, 2), blocks_per_level=1)
CPU = torch.device("cpu")
INSTALLED = {
    name: pytest.param(name, marks=pytest.mark.skipif(bool(engine_failure(name)), reason=engine_failure(name)))
    for name in ("openvino", "onnx")
}
OPENVINO = pytest.mark.skipif(bool(engine_failure("openvino")), reason=engine_failure("openvino"))
BOTH = pytest.mark.parametrize("name", INSTALLED.values())
ONNX = pytest.mark.parametrize(
    "name", [INSTALLED["onnx"]]
)  # for what is the same code in both, and slower in the other


def engine(name: str) -> ConvertedEngine:
    made = engine_for(name, CPU)
    assert isinstance(made, ConvertedEngine)
    return made


@torch.inference_mode(False)
def network(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(config).requires_grad_(False).eval()


def inputs_of(
    config: UNetConfig, size: tuple[int, int] = (8, 8), batch: int = 2
) -> tuple[Tensor, Tensor, Conditioning]:
    x, time, conditioning = inputs(config, size, batch)
    extra = config.in_channels - config.out_channels
    return x[:, extra:], time, replace(conditioning, concat=x[:, :extra] if extra else None)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) >= 0.9999


def check(run, unet: nn.Module, config: UNetConfig = SMALL, **size) -> None:
    given = inputs_of(config, **size)
    close(run(*given), unet(*given))


def check_adapters(name: str, folder: Path) -> None:
    """A LoRA that is added changes an engine's pictures as it does eager's, and goes again without a trace."""
    pictures = []
    for each in (name, "eager"):
        model = LatentDiffusion.from_pretrained(folder, device="cpu", engine=each)
        drawn = [_picture(model, each)]
        model.loras.add(low_ranks(unet_layers(model.parts.unet)), "ink")
        drawn.append(_picture(model, each))
        model.loras.unload()
        drawn.append(_picture(model, each))
        pictures.append(torch.cat(drawn))
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=0)
    plain, inked, again = pictures[0]
    assert (plain - inked).abs().max() > 0.01
    torch.testing.assert_close(plain, again, atol=1e-4, rtol=0)


def _picture(model: LatentDiffusion, engine_name: str) -> Tensor:
    result = model("a red apple", seed=0, num_inference_steps=2, output_type="pt")
    assert result.recipes[0].engine == engine_name
    return result.images


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]
