"""A model that is unloaded gives its memory back, and a process that draws for long does not grow."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from ldm import LatentDiffusion
from ldm.generation.request import Request


def test_an_unloaded_model_is_freed_and_says_so(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="packed")
    model("apple", num_inference_steps=1, seed=0)
    networks = [weakref.ref(network) for network in (model.unet, model.vae, model.text_encoder)]
    assert model.loras.weights == {}  # made at the first look, with the networks inside
    model.unload()
    gc.collect()
    assert [network() for network in networks] == [None] * 3
    for use in (lambda: model("apple"), lambda: model.unet, lambda: model.to("cpu"), lambda: model.load_lora("x")):
        with pytest.raises(ValueError, match=r"^model '.*' was unloaded; open it again$"):
            use()
    assert repr(model) == f"LatentDiffusion({str(tiny_folder)!r}: unloaded)"
    model.unload()  # once more changes nothing


def test_a_block_unloads_at_its_end_and_a_drawing_that_has_begun_goes_on(tiny_folder: Path) -> None:
    with LatentDiffusion.from_pretrained(tiny_folder, device="cpu") as model:
        wanted = model("apple", num_inference_steps=3, seed=0).images[0]
    assert "unloaded" in repr(model)
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")
    steps = model.steps(Request(prompt="apple", num_inference_steps=3, seed=0))
    next(steps)
    model.unload()
    assert steps.result.images[0].tobytes() == wanted.tobytes()


_DRAWINGS = """
import sys, psutil
from ldm import LatentDiffusion

model = LatentDiffusion.from_pretrained(sys.argv[1], device="cpu")
for seed in range(100):
    model("apple", num_inference_steps=2, seed=seed)
    print(psutil.Process().memory_info().rss)
"""

_SWITCHES = """
import sys, psutil
from ldm import LatentDiffusion

for switch in range(11):
    with LatentDiffusion.from_pretrained(sys.argv[1 + switch % 2], device="cpu", mmap=False) as model:
        model("apple", num_inference_steps=1, seed=0)
        loaded = psutil.Process().memory_info().rss
    print(psutil.Process().memory_info().rss, loaded)
"""


def _printed(script: str, *arguments: object) -> np.ndarray:
    """What a process of its own prints, a row of numbers a line."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return np.array([[int(number) for number in line.split()] for line in run.stdout.splitlines()])


@pytest.mark.slow
def test_a_hundred_pictures_grow_the_process_by_less_than_a_thousandth_each(tiny_folder: Path) -> None:
    held = _printed(_DRAWINGS, tiny_folder)[5:, 0]
    slope = np.polyfit(np.arange(len(held)), held, 1)[0]
    assert slope < 0.001 * held[0], (slope, held[0])


@pytest.mark.slow
def test_ten_switches_between_two_models_return_to_the_memory_of_the_first(tiny_folder: Path) -> None:
    rows = _printed(_SWITCHES, tiny_folder, "emoji")
    after, loaded = rows[1:, 0], rows[1::2, 1]  # the first of all also loads the code
    assert (abs(after - after[0]) <= 0.03 * after[0]).all(), after
    assert (loaded > 1.05 * after[0]).all(), (loaded, after)  # so a model that stayed would show
