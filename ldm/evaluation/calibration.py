"""`ldm model calibrate`: the denoiser's error at each level of noise, measured on pictures."""

import math

import torch

from ldm.denoiser import NetworkDenoiser
from ldm.evaluation.restoration.pictures import part_of, read_pictures
from ldm.families.denoising_error import ROWS, DenoisingError, angle_of, pixel_error
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.progress import Progress, silent, track


@torch.inference_mode()
def denoising_error(
    model: LatentDiffusion, data: str, n: int = 16, seed: int = 0, progress: Progress = silent
) -> DenoisingError:
    """Noise pictures up to each level, denoise them in one step without a prompt, and compare in pixels.

    Args:
        model: whose denoiser is measured, in its own size.
        data: a folder of pictures or a data set, whose held-out part is taken where it has one.
        n: how many pictures, at least 1; all levels see the same ones with the same noise.
        seed: chooses pictures and noise.
        progress: of everything.

    Raises:
        ValueError: n is out of range, or the model's network needs more than a prompt.
        FileNotFoundError: there are no pictures.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    parts = model.parts
    pictures, _ = read_pictures(data, part_of(data), n, seed, progress, parts.defaults.width)
    levels = [parts.process.time_of_lambda(-math.log(math.tan(angle_of(row)))) for row in range(1, ROWS - 1)]
    times = [t.item() for t in levels] + [parts.process.start]
    conditioning = None if parts.text is None else model.encode_prompt("")[0]
    denoise = NetworkDenoiser(parts.unet, parts.process, parts.prediction_type, conditioning, engine=model.engine)
    totals = [0.0] * ROWS
    for number, picture in enumerate(track(pictures, "pictures", progress)):
        truth = picture[None].to(model.device)
        z = model.encode(truth)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + number)).to(z)
        totals[0] += pixel_error(model.decode(z, upscale=False), truth)
        for row, t in enumerate(times, start=1):
            seen = denoise(parts.process.add_noise(z, noise, t), t).x0
            totals[row] += pixel_error(model.decode(seen, upscale=False), truth)
    return DenoisingError(tuple(total / len(pictures) for total in totals), len(pictures))
