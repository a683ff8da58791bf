"""Number formats: what each draws, and what happens where one is too narrow."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm import LatentDiffusion
from ldm.generation.result import NonFiniteError


def picture(model: LatentDiffusion) -> Tensor:
    return model("a red apple", seed=0, num_inference_steps=5, output_type="pt").images


def test_unknown_device_and_dtype_are_named(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="device='tpu9'"):
        LatentDiffusion.from_pretrained(tiny_folder, device="tpu9")
    with pytest.raises(ValueError, match="dtype 'float17'; did you mean 'float1"):
        LatentDiffusion.from_pretrained(tiny_folder, dtype="float17")


def test_lower_precision_draws_nearly_the_same(tiny_folder: Path) -> None:
    rough = LatentDiffusion.from_pretrained(tiny_folder, dtype="bf16")
    assert (picture(rough) - picture(LatentDiffusion.from_pretrained(tiny_folder))).abs().mean() < 0.05
    half = LatentDiffusion.from_pretrained(tiny_folder, dtype=torch.float16)
    assert next(half.parts.autoencoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_blow_up_are_an_error_not_a_black_picture(tiny_folder: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    path = tmp_path / "model" / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = "conv_out.weight" if part == "unet" else "decoder.conv_out.weight"
    save_file({**tensors, name: tensors[name] * float("nan")}, path)
    with pytest.raises(NonFiniteError, match="not finite"):
        LatentDiffusion.from_pretrained(tmp_path / "model")("apple", num_inference_steps=2)


@pytest.mark.parametrize("kind", ["", "group"])
def test_an_autoencoder_whose_type_is_too_narrow_goes_on_in_fp32(
    tiny_folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    narrow, wide = (LatentDiffusion.from_pretrained(tiny_folder, device="cpu") for _ in range(2))
    for model in (narrow, wide):
        model.vae.decoder.conv_in.weight.mul_(3e5)  # sums of some are beyond 65,504, the last number of fp16
        model.vae.to(torch.float16)
    wide.vae.to(torch.float32)  # of the same weights
    if kind:
        narrow._offload.use(kind, narrow.device)
    pictures, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 4, 8, 8)
    caplog.clear()
    torch.testing.assert_close(narrow.decode(latents), wide.decode(latents))
    torch.testing.assert_close(narrow.encode(pictures), wide.encode(pictures))
    assert narrow.vae.decoder.conv_in.weight.dtype == torch.float32
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == [
        "decoding in float16 gave numbers that are not finite; going on in float32"
    ]


def test_encoding_is_repeated_in_fp32_too(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")
    model.vae.encoder.conv_in.weight.mul_(1e5)
    model.vae.to(torch.float16)
    assert torch.isfinite(model.encode(torch.rand(1, 3, 32, 32))).all()
    assert "encoding in float16 gave numbers that are not finite; going on in float32" in caplog.messages
