"""What a CUDA GPU draws is what the CPU draws, in each number format, attention and layout. Skipped without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from unet_twins import SD1, inputs

from ldm import LatentDiffusion
from ldm.engine.cudagraphs import CudaGraphsEngine
from ldm.engine.eager import EAGER
from ldm.networks.attention import set_attention
from ldm.networks.unet import UNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

HALF = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.is_bf16_supported()), reason="no bf16"
))]  # fmt: skip
NETWORK = replace(SD1, widths=(32, 32, 64, 64))  # heads of 16 channels, which xformers takes
PROMPTS = ["red apple", "apple"]


def pictures(folder: Path, device: str, dtype: torch.dtype) -> Tensor:
    model = LatentDiffusion.from_pretrained(folder, dtype=dtype, device=device)
    return model(PROMPTS, seed=0, num_inference_steps=5, output_type="pt").images.float().cpu()


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def step(device: str, dtype: torch.dtype, attention: str = "sdpa", layout: torch.memory_format | None = None) -> Tensor:
    torch.manual_seed(0)
    unet = UNet(NETWORK).requires_grad_(False).eval().to(device, dtype)
    set_attention(unet, attention)
    if layout is not None:
        unet = unet.to(memory_format=layout)
    x, time, conditioning = inputs(NETWORK)
    run = EAGER.network(unet)
    with torch.inference_mode():
        return run(x.to(device, dtype), time.to(device), conditioning.to(device, dtype)).float().cpu()


def test_fp32_pictures_are_those_of_the_cpu(tiny_folder: Path) -> None:
    expected = pictures(tiny_folder, "cpu", torch.float32)
    found = pictures(tiny_folder, "cuda", torch.float32)
    assert correlation(found, expected) > 0.999
    assert (found - expected).abs().mean() < 0.02


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_pictures_are_near_those_of_the_cpu_in_fp32(tiny_folder: Path, dtype: torch.dtype) -> None:
    expected = pictures(tiny_folder, "cpu", torch.float32)
    found = pictures(tiny_folder, "cuda", dtype)
    assert torch.isfinite(found).all()
    assert correlation(found, expected) > (0.99 if dtype == torch.float16 else 0.95)


def test_fp16_is_the_default_number_format(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert model.device.type == "cuda"
    assert next(model.parts.unet.parameters()).dtype == torch.float16


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("attention", ["sdpa", "math", "xformers"])
def test_every_attention_computes_the_same(dtype: torch.dtype, attention: str) -> None:
    if attention == "xformers":
        pytest.importorskip("xformers")
    assert correlation(step("cuda", dtype, attention), step("cpu", torch.float32)) > 0.995


@pytest.mark.parametrize("dtype", HALF)
def test_the_memory_layout_changes_rounding_only(dtype: torch.dtype) -> None:
    found = step("cuda", dtype, layout=torch.channels_last)
    assert correlation(found, step("cuda", dtype)) > 0.999


@pytest.mark.parametrize("dtype", HALF)
def test_cuda_graphs_compute_what_the_kernels_do_one_by_one(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    unet = UNet(NETWORK).requires_grad_(False).eval().to("cuda", dtype)
    run = CudaGraphsEngine().network(unet)
    with torch.inference_mode():
        for batch, factor in ((2, 1.0), (3, 1.0), (2, 1.5)):
            unet.conv_in.weight.mul_(factor)
            for seed in range(3):  # the second replays what the first recorded
                x, time, conditioning = inputs(NETWORK, batch=batch)
                given = ((x + seed).to("cuda", dtype), time.to("cuda"), conditioning.to("cuda", dtype))
                assert correlation(run(*given).float().cpu(), unet(*given).float().cpu()) > 0.9999


def test_pictures_by_cuda_graphs_are_those_of_eager(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"seed": 0, "num_inference_steps": 5, "output_type": "pt"}
    made = [
        LatentDiffusion.from_pretrained(tiny_folder, device="cuda", engine=engine)(PROMPTS, **settings).images.cpu()
        for engine in ("cudagraphs", "eager")
    ]
    assert correlation(*made) > 0.999
    assert not [record for record in caplog.records if "using eager" in record.getMessage()]
