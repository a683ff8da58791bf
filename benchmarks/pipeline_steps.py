"""One step within a drawing of 512 px with guidance, by whole programs: diffusers, ours, and stable-diffusion.cpp.

A model of Stable Diffusion 1.5's size with random half-precision weights is written as a folder, and by our own export
as the single file that stable-diffusion.cpp opens. Each program draws it once in each process, which notes the time
after every step; what is timed is from the end of the first step on, so that opening, texts and decoding are left out.
All samplers take one guided evaluation a step. stable-diffusion.cpp begins with its own noise, so nothing verifies it.

It needs `pip install stable-diffusion-cpp-python`, which may be in an environment of its own whose `site-packages` are
in PYTHONPATH.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.loading import write_model
from benchmarks.measuring import (
    Comparison,
    Options,
    Outcome,
    Side,
    Unavailable,
    compare,
    fallbacks_refused,
    processor_seconds,
)
from benchmarks.networks import family_of
from benchmarks.processes import in_processes, peak_memory
from ldm import LatentDiffusion
from ldm.io.single_file.from_folder import read_folder
from ldm.io.single_file.save import save_single_file

CPP = "stable-diffusion.cpp, "
WEIGHTS = ("f16", "q8_0")
"""What stable-diffusion.cpp keeps weights in."""
PROMPT, SCALE = "a red apple, 3d style", 7.5
_FILE = "model.safetensors"

Stamp = Callable[[], None]
"""Notes the time; for the end of every step."""


def run(options: Options) -> Iterator[Comparison]:
    """All programs in the same rounds."""
    family = family_of("sd1", options.quick)
    names = ["diffusers", *(f"ldm, {engine}" for engine in options.engines)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(family, folder, options.quick)
        if not options.quick:
            save_single_file(read_folder(folder), folder / _FILE)
        for dtype in options.dtypes:
            sides = [_side(name, ours=name != "diffusers", baseline=name == "diffusers") for name in names]
            if options.device.type == "cpu":
                sides += [_side(f"{CPP}{weights}", unlike="it begins with its own noise") for weights in WEIGHTS]
            sides = in_processes(sides, options.rounds, options, steps, folder, family.size, options, dtype)
            yield compare(f"a step within a drawing of {family.size} px, SD 1.5's size", sides, options, dtype)


def _side(name: str, ours: bool = False, baseline: bool = False, unlike: str = "") -> Side:
    return Side(name, partial(_only_apart, name), ours, baseline, unlike=unlike)


def _only_apart(name: str) -> Callable[[], Outcome]:
    raise Unavailable(f"{name} is timed in a process of its own")


def steps(side: str, folder: Path, size: int, options: Options, dtype: torch.dtype) -> Outcome:
    """The steps after the first one of a drawing by one program, in this process."""
    wall: list[float] = []
    processor: list[float] = []

    def stamp() -> None:
        wall.append(time.perf_counter())
        processor.append(processor_seconds())

    count = options.repetitions + 1
    if side.startswith(CPP):
        output = _by_cpp(folder / _FILE, side.removeprefix(CPP), size, count, stamp)
    elif side == "diffusers":
        output = _by_diffusers(folder, size, count, stamp, options, dtype)
    else:
        output = _by_ours(folder, side.removeprefix("ldm, "), size, count, stamp, options, dtype)
    first, second = ([b - a for a, b in pairwise(clock)] for clock in (wall, processor))
    assert len(first) == options.repetitions, f"{side} took {len(wall)} steps, not {count}"
    return Outcome(output, first, second, peak_memory())


def _noise(size: int) -> torch.Tensor:
    return torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0))


def _by_diffusers(
    folder: Path, size: int, count: int, stamp: Stamp, options: Options, dtype: torch.dtype
) -> np.ndarray:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.to(options.device)

    def step_end(pipeline: object, index: int, timestep: object, tensors: dict) -> dict:
        stamp()
        return tensors

    made = pipeline(
        PROMPT,
        latents=_noise(size).to(options.device, dtype),
        num_inference_steps=count,
        guidance_scale=SCALE,
        output_type="latent",
        callback_on_step_end=step_end,
    )
    return made.images.float().cpu().numpy()


def _by_ours(
    folder: Path, engine: str, size: int, count: int, stamp: Stamp, options: Options, dtype: torch.dtype
) -> np.ndarray:
    with fallbacks_refused():
        made = LatentDiffusion.from_pretrained(folder, dtype, options.device, engine=engine)(
            PROMPT,
            latents=_noise(size),
            num_inference_steps=count,
            guidance_scale=SCALE,
            sampler="ddim",
            output_type="latent",
            fast=False,
            callback=lambda step: stamp(),
        )
    return made.images.float().cpu().numpy()


def _by_cpp(file: Path, weights: str, size: int, count: int, stamp: Stamp) -> np.ndarray:
    from stable_diffusion_cpp import StableDiffusion

    if not file.exists():
        raise Unavailable("opens models of the published sizes only")

    def progress(step: int, steps: int, seconds: float) -> None:
        if steps == count and step:  # it is called for the loading of weights, too
            stamp()

    model = StableDiffusion(
        model_path=str(file), wtype=weights, n_threads=torch.get_num_threads(), vae_decode_only=True, verbose=False
    )
    (picture,) = model.generate_image(
        prompt=PROMPT,
        width=size,
        height=size,
        cfg_scale=SCALE,
        sample_method="euler",
        sample_steps=count,
        seed=0,
        progress_callback=progress,
    )
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
