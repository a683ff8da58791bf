"""Whole pictures: prompts to pixels, from the same first noise, by diffusers' pipeline and by our engines.

`drawing_emoji` is the shipped model, warm: 25 and 16 steps with guidance, with its full weights. `drawing_sd1` is a
model of Stable Diffusion 1.5's size with random weights: 512 px, 20 steps. `process` is a whole process, from the shell
to the PNG.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.loading import write_model
from benchmarks.measuring import Comparison, Options, Outcome, Side, compare, fallbacks_refused
from benchmarks.networks import family_of
from benchmarks.processes import in_rounds, named, warm_outcome
from ldm import LatentDiffusion
from ldm.io.locate import find_model

PROMPT = "a red apple, 3d style"
LATENTS = (1, 8, 16, 16)
"""Shape of the first noise of the shipped model."""

_THEIR_PROCESS = """
import sys, torch
from diffusers import StableDiffusionPipeline
folder, noise, steps, scale, prompt, png = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
latents = torch.load(noise)
pictures = pipeline(prompt, latents=latents, num_inference_steps=int(steps), guidance_scale=float(scale)).images
pictures[0].save(png)
"""


def run_emoji(options: Options) -> Iterator[Comparison]:
    """Warm drawings of the shipped model."""
    folder = find_model("emoji")
    for title, steps in (("25 guided steps of emoji", 25), ("16 guided steps of emoji", 16)):
        for dtype in options.dtypes:
            sides = pipelines(folder, LATENTS, 2 if options.quick else steps, 4.0, options, dtype)
            yield compare(title, sides, options, dtype, pictures=1)


def run_sd1(options: Options) -> Iterator[Comparison]:
    """512 px in 20 steps."""
    family = family_of("sd1", options.quick)
    cells = family.size // 8
    with tempfile.TemporaryDirectory() as place:
        stored = write_model(family, Path(place), options.quick)
        for dtype in options.dtypes:
            drawing = Path(place), (1, 4, cells, cells), 2 if options.quick else 20, 7.5, options, dtype
            weights = stored * dtype.itemsize // torch.float16.itemsize
            sides = in_rounds(pipelines(*drawing), weights, options, picture, *drawing)
            yield compare(f"{family.size} px, 20 guided steps, SD 1.5's size", sides, options, dtype, pictures=1)


def picture(
    side: str, folder: Path, shape: tuple[int, ...], steps: int, scale: float, options: Options, dtype: torch.dtype
) -> Outcome:
    """Warm drawings by one side, in this process."""
    return warm_outcome(named(pipelines(folder, shape, steps, scale, options, dtype), side), options)


def pipelines(
    folder: Path, shape: tuple[int, ...], steps: int, scale: float, options: Options, dtype: torch.dtype
) -> list[Side]:
    """diffusers' pipeline in both layouts, and ours by each engine, which all begin with the same noise.

    Args:
        folder: of the model.
        shape: of its latents.
        steps: of its own sampler.
        scale: of guidance.
        options: device and engines.
        dtype: in which the networks run.
    """
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def theirs(layout: torch.memory_format) -> Callable[[], Tensor]:
        from diffusers import StableDiffusionPipeline
        from diffusers.utils.logging import disable_progress_bar

        disable_progress_bar()
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(options.device)
        pipeline.unet.to(memory_format=layout)
        pipeline.vae.to(memory_format=layout)
        start = latents.to(options.device, dtype)
        settings = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "pt"}
        return lambda: pipeline(PROMPT, latents=start, **settings).images

    def ours(engine: str) -> Callable[[], Tensor]:
        settings = {"num_inference_steps": steps, "guidance_scale": scale, "fast": False, "output_type": "pt"}
        with fallbacks_refused():
            model = LatentDiffusion.from_pretrained(folder, dtype, options.device, engine=engine)

        def draw() -> Tensor:
            with fallbacks_refused():
                return model(PROMPT, latents=latents, **settings).images

        return draw

    sides = [
        Side("diffusers", partial(theirs, torch.contiguous_format), baseline=True),
        Side("diffusers, channels_last", partial(theirs, torch.channels_last), baseline=True),
    ]
    return sides + [Side(f"ldm, {engine}", partial(ours, engine), ours=True) for engine in options.engines]


def run_process(options: Options) -> Iterator[Comparison]:
    """A whole process that draws one picture of the shipped model, in fp32 on the CPU."""
    steps, scale = 2 if options.quick else 16, 4.0
    with tempfile.TemporaryDirectory() as place:
        noise, png = Path(place) / "noise.pt", Path(place) / "a.png"
        torch.save(torch.randn(LATENTS, generator=torch.Generator().manual_seed(0)), noise)
        program = [sys.executable, "-c", _THEIR_PROCESS, str(find_model("emoji")), str(noise), str(steps), str(scale)]
        command = [sys.executable, "-c", "from ldm.cli import main; main()", "generate", PROMPT, "--no-fast"]
        command += ["--steps", str(steps), "--cfg-scale", str(scale), "--init-latents", str(noise)]
        sides = [
            Side("diffusers, a script", lambda: partial(_picture_of, [*program, PROMPT, str(png)], png), baseline=True),
            Side("ldm generate", lambda: partial(_picture_of, [*command, "--output", str(png)], png), ours=True),
        ]
        yield compare("a whole process, 16 guided steps of emoji", sides, options, torch.float32, pictures=1)


def _picture_of(command: list[str], png: Path) -> Tensor:
    """Run a command and read the picture that it wrote."""
    png.unlink(missing_ok=True)
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, capture_output=True, env=place)
    return torch.from_numpy(np.asarray(Image.open(png).convert("RGB"), dtype=np.float32) / 255)
