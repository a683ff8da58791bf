"""What image to image and inpainting keep, beside diffusers: `python benchmarks/task_laws.py`.

Both open the same small random model of Stable Diffusion's classes, or another --model, and do the same to the same
drawing, with the calls that their documentation shows. Printed is a table of what came out; no figure is a time.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ldm import LatentDiffusion
from ldm.io.locate import find_model
from ldm.tasks.composing import cover

PROMPT = "a red apple, 3d style"
STEPS = 8
EDITS = 20

Call = Callable[..., Image.Image]


def drawing(size: tuple[int, int], mode: str) -> Image.Image:
    """A red circle on blue stripes; the alpha, if any, is a circle too."""
    width, height = size
    image = Image.new("RGB", size, (240, 244, 255))
    pen = ImageDraw.Draw(image)
    for x in range(0, width, 12):
        pen.line((x, 0, x, height), fill=(120, 150, 220), width=2)
    circle = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    pen.ellipse(circle, fill=(200, 40, 50))
    if mode == "RGBA":
        alpha = Image.new("L", size, 0)
        ImageDraw.Draw(alpha).ellipse(circle, fill=255)
        image.putalpha(alpha)
    return image.convert(mode)


def mask_of(size: tuple[int, int]) -> Image.Image:
    """White in the right upper quarter."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, size[0], size[1] // 2), fill=255)
    return mask


def random_model(folder: Path) -> Path:
    """A folder of a small model of the classes and the latents of Stable Diffusion 1.5, with random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    emoji = find_model("emoji")
    tokenizer = CLIPTokenizer.from_pretrained(emoji / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(16, 16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
        ),
        unet=UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=8,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


class Ours:
    """The calls of `LatentDiffusion`."""

    name = "ldm"

    def __init__(self, folder: str) -> None:
        self.model = LatentDiffusion.from_pretrained(folder)
        self.network: torch.nn.Module = self.model.unet

    def img2img(self, image: Image.Image, strength: float, steps: int = STEPS) -> Image.Image:
        """The picture changed."""
        return self.model.img2img(PROMPT, image, strength, seed=0, num_inference_steps=steps, upscale=False).images[0]

    def inpaint(self, image: Image.Image, mask: Image.Image, seed: int = 0) -> Image.Image:
        """The picture with the mask filled."""
        return self.model.inpaint(PROMPT, image, mask, seed=seed, num_inference_steps=STEPS).images[0]

    def masked_cells(self, mask: Image.Image) -> int:
        """Cells of the latent that are free."""
        pixels = torch.from_numpy(np.asarray(mask) / 255).float()
        return int((cover(pixels, self.model.parts.latent_format.factor, reach=0) > 0).sum())


class Theirs:
    """The calls of diffusers' pipelines."""

    name = "diffusers"

    def __init__(self, folder: str) -> None:
        from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

        options: dict[str, Any] = {"safety_checker": None, "torch_dtype": torch.float32}
        self.changing = StableDiffusionImg2ImgPipeline.from_pretrained(folder, **options)
        self.filling = StableDiffusionInpaintPipeline(**self.changing.components, requires_safety_checker=False)
        self.network: torch.nn.Module = self.changing.unet
        for pipeline in (self.changing, self.filling):
            pipeline.set_progress_bar_config(disable=True)

    def img2img(self, image: Image.Image, strength: float, steps: int = STEPS) -> Image.Image:
        """See `Ours.img2img`."""
        generator = torch.Generator().manual_seed(0)
        call = self.changing(PROMPT, image, strength, num_inference_steps=steps, generator=generator)
        return call.images[0]

    def inpaint(self, image: Image.Image, mask: Image.Image, seed: int = 0) -> Image.Image:
        """See `Ours.inpaint`."""
        generator, size = torch.Generator().manual_seed(seed), {"height": image.height, "width": image.width}
        call = self.filling(PROMPT, image, mask, strength=1.0, num_inference_steps=STEPS, generator=generator, **size)
        return call.images[0]

    def masked_cells(self, mask: Image.Image) -> int:
        """See `Ours.masked_cells`; the pipeline scales its mask to the latent by nearest sampling."""
        pixels = self.filling.mask_processor.preprocess(mask)
        factor = self.filling.vae_scale_factor
        return int((torch.nn.functional.interpolate(pixels, scale_factor=1 / factor) > 0).sum())


def equal_share(one: Image.Image, other: Image.Image, where: np.ndarray | None = None) -> str:
    """How many of the pixels that should stay are the same bytes, or why they cannot be."""
    if one.size != other.size or one.mode != other.mode:
        return f"{other.mode} of {other.width} x {other.height}"
    same = (np.asarray(one) == np.asarray(other)).reshape(one.height, one.width, -1).all(-1)
    return f"{100 * (same if where is None else same[where]).mean():.1f} %"


def decibels(one: Image.Image, other: Image.Image, where: np.ndarray) -> str:
    """PSNR of what should stay."""
    error = (np.asarray(one).astype(float) - np.asarray(other))[where]
    return "equal" if not error.any() else f"{10 * np.log10(255**2 / np.square(error).mean()):.1f} dB"


def steps_run(side: Any, strength: float, steps: int) -> int:
    """Steps of image to image: network calls, which guidance makes in one batch."""
    calls = []
    handle = side.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        side.img2img(drawing((256, 256), "RGB"), strength, steps)
    finally:
        handle.remove()
    return len(calls)


def attempt(make: Callable[[], Any]) -> str:
    """What a call gives, or what it raises, as a cell of the table."""
    try:
        return str(make())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"


def measure(side: Any) -> dict[str, str]:
    """Law -> what came out."""
    square, odd, rgba = drawing((256, 256), "RGB"), drawing((300, 213), "RGB"), drawing((64, 64), "RGBA")
    mask = mask_of(square.size)
    outside = np.asarray(mask) == 0

    def many() -> str:
        image = square
        for seed in range(EDITS):
            image = side.inpaint(image, mask, seed)
        return decibels(square, image, outside)

    def stroke() -> int:
        thin = Image.new("L", (256, 256), 0)
        ImageDraw.Draw(thin).line((5, 0, 5, 255), fill=255)
        return side.masked_cells(thin)

    return {
        "strength 0: the picture's own bytes": attempt(lambda: equal_share(square, side.img2img(square, 0.0))),
        "steps run of 50 at strength 0.58": attempt(lambda: steps_run(side, 0.58, 50)),
        "a picture of 300 x 213 comes back as": attempt(
            lambda: "{0.width} x {0.height}".format(side.img2img(odd, 0.6))
        ),
        # diffusers takes four channels for latents, so a small one
        "RGBA of 64 x 64 comes back as": attempt(
            lambda: "{0.mode} of {0.width} x {0.height}".format(side.img2img(rgba, 0.6))
        ),
        "bytes outside a mask": attempt(lambda: equal_share(square, side.inpaint(square, mask), outside)),
        f"what is outside after {EDITS} fills": attempt(many),
        "cells of a stroke of one pixel across the picture": attempt(stroke),
    }


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder of Stable Diffusion's classes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as temporary:
        folder = str(find_model(arguments.model) if arguments.model else random_model(Path(temporary)))
        columns = {side.name: measure(side) for side in (Ours(folder), Theirs(folder))}
    ours, theirs = columns["ldm"], columns["diffusers"]
    print("| law | ldm | diffusers |\n|---|---|---|")
    for law in ours:
        print(f"| {law} | {ours[law]} | {theirs[law]} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(columns, indent=2) + "\n")


if __name__ == "__main__":
    main()
