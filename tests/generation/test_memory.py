"""What does not fit into memory is refused before it is begun, with the largest that fits."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from ldm import LatentDiffusion
from ldm.generation import memory, resolve
from ldm.generation.memory import check_memory, free_memory
from ldm.generation.request import Request
from ldm.generation.resolve import fitting_batch_size, resolve_request


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu")


def test_free_memory_is_what_the_machine_has() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is not None and 0 < free <= psutil.virtual_memory().total + psutil.swap_memory().total
    assert free_memory(torch.device("meta")) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 8192, "height": 8192}, r"width=8192 and height=8192 need more than .* use less than (\d+) x"),
        ({"width": 512, "height": 512, "num_images_per_prompt": 50}, r"batch_size=50 needs more .* use (\d+) or less"),
        (
            {"width": 512, "height": 512, "num_images_per_prompt": 50, "batch_size": 1},
            r"50 pictures in one call need more than .*; draw (\d+) at a time",
        ),
    ],
)
def test_too_much_is_refused_and_the_largest_that_fits_is_not(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], message: str
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**8)
    request = Request(prompt="x", seed=0, **settings)
    with pytest.raises(ValueError, match=message) as error:
        resolve_request(model, request)
    most = int(re.search(message, str(error.value))[1])  # type: ignore[index]
    if "width=" in message:
        request = replace(request, width=most // 8 * 8, height=most // 8 * 8)
    elif "batch_size" in message:
        request = replace(request, batch_size=most, num_images_per_prompt=most)
    else:
        request = replace(request, num_images_per_prompt=most)
    resolve_request(model, request)


def test_what_is_refused_is_less_than_what_is_needed(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensors of a decoder alone are more than the estimate says of it."""
    sizes: list[int] = []

    def weigh(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        sizes.append((inputs[0].numel() + output.numel()) * output.element_size())

    convolutions = [each for each in model.parts.autoencoder.modules() if isinstance(each, torch.nn.Conv2d)]
    handles = [each.register_forward_hook(weigh) for each in convolutions]
    model.decode(torch.zeros(1, 4, 16, 16))
    for handle in handles:
        handle.remove()
    finished = 64 * 64 * 3 * 4 * 2
    monkeypatch.setattr(memory, "free_memory", lambda device: max(sizes) + finished)
    check_memory(model.parts, torch.device("cpu"), 1, 1, (64, 64), 1)


@pytest.mark.parametrize(("prompt", "words"), [("a " * 3000, "chunks"), (" AND ".join("a" * 120), "parts")])
def test_prompts_that_cost_much_say_so(
    model: LatentDiffusion, caplog: pytest.LogCaptureFixture, prompt: str, words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        resolve_request(model, Request(prompt="a short one", seed=0))
        assert not caplog.records
        resolve_request(model, Request(prompt=prompt, seed=0))
    assert [words in record.getMessage() for record in caplog.records] == [True]


def test_a_gpu_draws_as_many_at_once_as_its_free_memory_decodes(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(prompt="an apple", width=512, height=512)
    assert fitting_batch_size(model, request) == 1  # on a CPU, whatever is free
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(resolve, "check_memory", lambda *given: None)
    found = []
    for free in (1, 8 * 2**30, 16 * 2**30):
        monkeypatch.setattr(resolve, "free_memory", lambda device, free=free: free if device.type == "cuda" else 0)
        found.append(fitting_batch_size(model, request))
    assert found == [1, 4, 8]  # 2 GiB each
    assert fitting_batch_size(model, replace(request, width=1024)) == 4
