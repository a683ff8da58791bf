"""Text to image: conditioner, denoiser, sampler and autoencoder put together."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ldm
from conditioning.bundle import Conditioning
from conditioning.clip_text import TokenReport
from conditioning.labels import Labels
from ldm.denoiser import NetworkDenoiser
from ldm.engine.precision import DTYPES
from ldm.guidance import ClassifierFreeGuidance
from ldm.io.folder import ModelParts, load_folder, save_folder
from ldm.io.locate import find_model
from ldm.io.metadata import Recipe
from ldm.io.scheduler import grid_options
from ldm.naming import look_up
from ldm.noise import NoiseSource
from ldm.plan import Generators, Plan, one_each, repeat_each, seeds_for
from ldm.process import DiscreteVP, Process
from ldm.samplers import Step, make_sampler
from ldm.schedules import make_grid

OUTPUT_TYPES = ("pil", "pt", "np", "latent")


class NonFiniteError(ArithmeticError):
    """A network gave NaN or infinity; there is no picture to show."""


@dataclass(frozen=True)
class Result:
    """Finished pictures.

    Attributes:
        images: by `output_type`: a list of PIL images; `pt` (B, 3, H, W) or `np` (B, H, W, 3) fp32 in [0, 1]; or
            `latent` (B, C, h, w) fp32, what the denoiser left, before the latent format.
        seeds: one per picture.
        seconds: for all of them together, without loading the model.
        prompts: one per picture.
        recipes: one per picture; empty where `generator` or `latents` were given, which no recipe can repeat.
    """

    images: Any
    seeds: list[int]
    seconds: float
    prompts: list[str]
    recipes: list[Recipe]


class LatentDiffusion:
    """A text-to-image model: `LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0]`."""

    def __init__(self, parts: ModelParts, name: str = "", device: torch.device | str = "cpu") -> None:
        """parts: the networks, which are moved to `device`; name: what recipes call the model."""
        self.parts, self.name, self.device = parts, name, torch.device(device)
        for network in (parts.text, parts.unet, parts.autoencoder, parts.upscaler):
            if network is not None:
                network.to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
    ) -> "LatentDiffusion":
        """Open a shipped model by name, a model folder, or a hub id.

        dtype: a torch dtype or its name; by default fp32, and fp16 on a CUDA device, where the autoencoder stays fp32.
        device: by default the best there is.

        Raises:
            ValueError: an unknown dtype or device.
            FileNotFoundError, ModelFileError: no such model, or a damaged one; says which file and what to do.
        """
        place = _device(device)
        if isinstance(dtype, str):
            dtype = look_up("dtype", dtype.removeprefix("torch."), DTYPES)
        dtype = dtype or (torch.float16 if place.type == "cuda" else torch.float32)
        return cls(load_folder(find_model(str(model)), dtype), str(model), place)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model folder, atomically; `StableDiffusionPipeline.from_pretrained` of diffusers opens it too.

        dtype: of the weights in the files; None keeps what they are in.
        """
        save_folder(self.parts, Path(folder), dtype)

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        generator: Generators | None = None,
        num_images_per_prompt: int = 1,
        sampler: str | None = None,
        schedule: str | None = None,
        output_type: str = "pil",
        latents: Tensor | None = None,
        upscale: bool = True,
        callback: Callable[[Step], None] | None = None,
    ) -> Result:
        """Draw pictures. What is None is the model's default.

        Args:
            prompt: one or several; each gives `num_images_per_prompt` pictures, one after the other.
            negative_prompt: what to stay away from; one for all prompts, or a list with one each.
            num_inference_steps: of the sampler.
            guidance_scale: 1 is no guidance.
            guidance_rescale: 0 to 1, see `ldm.guidance.rescale_contrast`.
            width, height: of the finished picture, in pixels, which an upscaler makes larger than what is denoised.
            seed: of the first picture, >= 0; picture i has seed + i and is the one that `seed + i` gives alone.
            generator: CPU generators in place of a seed: one per picture, or one for all.
            sampler, schedule: keys of `ldm.samplers.SAMPLERS` and `ldm.schedules.SCHEDULES`.
            output_type: pil, pt, np or latent, see `Result.images`.
            latents: initial noise (B, C, h, w) of variance 1 in place of the drawn one.
            upscale: run the model's upscaler, if it has one.
            callback: called after every step; an exception from it stops the drawing.

        Raises:
            ValueError: names the argument, its value and a possible one.
            NonFiniteError: a network gave NaN or infinity.
        """
        started = time.perf_counter()
        look_up("output_type", output_type, dict.fromkeys(OUTPUT_TYPES))
        own_noise = generator is not None or latents is not None
        defaults, enlarged = self.parts.defaults, self._enlarged(upscale and output_type != "latent")
        prompts = repeat_each(prompt, num_images_per_prompt)
        one_negative = isinstance(negative_prompt, str)
        plan = Plan(
            prompts=prompts,
            negatives=repeat_each(negative_prompt, len(prompts) if one_negative else num_images_per_prompt),
            seeds=seeds_for(seed, generator, len(prompts)),
            steps=defaults.num_inference_steps if num_inference_steps is None else num_inference_steps,
            scale=float(defaults.guidance_scale if guidance_scale is None else guidance_scale),
            rescale=float(defaults.guidance_rescale if guidance_rescale is None else guidance_rescale),
            sampler=sampler or defaults.sampler,
            schedule=schedule or defaults.schedule,
            width=defaults.width * enlarged if width is None else width,
            height=defaults.height * enlarged if height is None else height,
            enlarged=enlarged,
            multiple=max(8, self.parts.latent_format.factor) * enlarged,
        )
        with torch.inference_mode():
            drawn = self._denoise(plan, generator, latents, callback)
            images = drawn if output_type == "latent" else self.decode(drawn, plan.enlarged > 1)
        return Result(
            images=_convert(images.clone(), output_type),
            seeds=plan.seeds,
            seconds=time.perf_counter() - started,
            prompts=plan.prompts,
            recipes=[] if own_noise else self._recipes(plan),
        )

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told: text, or for a model without a text encoder class numbers ("" is no class)."""
        if self.parts.text is not None:
            return self.parts.text.encode(prompts)
        classes = self.parts.unet.config.num_classes
        if classes is None:
            return Conditioning()
        labels = Labels(tuple(str(i) for i in range(classes - 1)))
        return Conditioning.cat([labels.encode([name]) if name else labels.null() for name in prompts]).to(self.device)

    def token_report(self, prompt: str) -> TokenReport:
        """How many of the prompt's tokens the text encoder reads."""
        if self.parts.text is None:
            return TokenReport(prompt, 0, 0)
        return self.parts.text.tokenize([prompt])[1][0]

    def decode(self, latents: Tensor, upscale: bool = True) -> Tensor:
        """Denoiser's latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], fp32. Raises NonFiniteError."""
        parts = self.parts
        z = parts.latent_format.to_autoencoder(latents).to(next(parts.autoencoder.parameters()).dtype)
        images = parts.autoencoder.decode(z).float()
        if upscale and parts.upscaler is not None:
            images = parts.upscaler(images.clamp(-1, 1)).float()
        _check_finite(images, "autoencoder")
        return (images / 2 + 0.5).clamp(0, 1)

    def _denoise(
        self,
        plan: Plan,
        generator: Generators | None,
        latents: Tensor | None,
        callback: Callable[[Step], None] | None,
    ) -> Tensor:
        parts, process = self.parts, _process_for(plan.sampler, self.parts.process)
        factor = parts.latent_format.factor * plan.enlarged
        shape = parts.latent_format.channels, plan.height // factor, plan.width // factor
        if generator is None:
            noise = NoiseSource(plan.seeds, shape, self.device)
        else:
            noise = NoiseSource.from_generators(one_each(generator, len(plan.seeds)), shape, self.device)
        if latents is None:
            latents = noise()
        elif tuple(latents.shape) != (len(plan.seeds), *shape):
            raise ValueError(f"latents are {tuple(latents.shape)}; this call needs {(len(plan.seeds), *shape)}")
        grid = make_grid(plan.schedule, process, plan.steps, grid_options(plan.sampler, plan.schedule))
        denoise = self._guided(plan, process)
        x = process.initial(latents.to(self.device, torch.float32), grid[0])
        for step in make_sampler(plan.sampler)(denoise, x, grid, noise):
            x = step.x
            if callback is not None:
                callback(step)
        _check_finite(x, "U-Net")
        return x

    def _guided(self, plan: Plan, process: Process) -> NetworkDenoiser | ClassifierFreeGuidance:
        # Each text is read alone, and once: what a picture is told depends on no other picture of the batch.
        distinct = list(dict.fromkeys([*plan.prompts, *(plan.negatives if plan.scale != 1 else [])]))
        read = {text: self.encode_prompts([text]) for text in distinct}
        told = Conditioning.cat([read[text] for text in plan.prompts])
        denoise = NetworkDenoiser(self.parts.unet, process, self.parts.prediction_type, told)
        if plan.scale == 1:
            return denoise
        negative = Conditioning.cat([read[text] for text in plan.negatives])
        return ClassifierFreeGuidance(denoise, negative, plan.scale, plan.rescale)

    def _enlarged(self, upscale: bool) -> int:
        upscaler = self.parts.upscaler
        return upscaler.config.factor if upscale and upscaler is not None else 1

    def _recipes(self, plan: Plan) -> list[Recipe]:
        return [
            Recipe(
                prompt=prompt,
                negative_prompt=negative,
                seed=seed,
                num_inference_steps=plan.steps,
                guidance_scale=plan.scale,
                guidance_rescale=plan.rescale,
                sampler=plan.sampler,
                schedule=plan.schedule,
                width=plan.width,
                height=plan.height,
                upscale=plan.enlarged > 1,
                model=self.name,
                dtype=str(next(self.parts.unet.parameters()).dtype).removeprefix("torch."),
                device=str(self.device),
                version=ldm.__version__,
            )
            for prompt, negative, seed in zip(plan.prompts, plan.negatives, plan.seeds, strict=True)
        ]


def _check_finite(x: Tensor, what: str) -> None:
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"the {what} gave numbers that are not finite, so there is no picture; try dtype float32")


def _convert(x: Tensor, output_type: str) -> Any:
    if output_type == "latent":
        return x.float().cpu()
    if output_type == "pt":
        return x.cpu()
    if output_type == "np":
        return x.permute(0, 2, 3, 1).cpu().numpy()
    from PIL import Image

    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _process_for(sampler: str, process: Process) -> Process:
    """The process as `sampler` ends it: of diffusers' schedulers only DDIM's knows a terminal point with noise left."""
    if sampler != "ddim" and isinstance(process, DiscreteVP):
        return dataclasses.replace(process, final_alpha_one=True)
    return process


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device={str(device)!r} cannot be used here ({reason[:120]}); use cpu") from None
    return place
