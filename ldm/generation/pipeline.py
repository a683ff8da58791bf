"""Text to image: conditioner, denoiser, sampler and autoencoder put together."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import ldm
from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import TokenReport
from conditioning.prompt.encoder import PromptEncoder
from conditioning.prompt.wildcards import draw, literal
from ldm.adapters.lora.tags import lora_tags
from ldm.denoiser import NetworkDenoiser
from ldm.engine.placement import device_for, dtype_for
from ldm.families.parts import ModelParts
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.prompt_timeline import (
    ClassReader,
    Join,
    PromptTimeline,
    Reader,
    RegionalPrompt,
    parse_timeline,
    timeline_denoiser,
)
from ldm.generation.resolve import (
    Generators,
    ResolvedRequest,
    alike,
    guidance_for,
    guidance_options,
    one_each,
    repeat_each,
    seeds_for,
)
from ldm.generation.result import OUTPUT_TYPES, Result, check_finite, in_form
from ldm.generation.sampling import options_beyond, sampling_for
from ldm.guidance import GuidanceSettings
from ldm.io.folder.load import load_folder, save_folder
from ldm.io.folder.text_encoder import PLACES, towers_by_folder
from ldm.io.locate import find_model
from ldm.io.metadata.png import Recipe
from ldm.naming import OptionValue, look_up
from ldm.noise import NoiseSource
from ldm.process import Process
from ldm.samplers import Step

if TYPE_CHECKING:
    from conditioning.clip.textual_inversion import Embedding
    from ldm.adapters.lora.adapter_set import AdapterWeight, LoraReport, LoraSet


class LatentDiffusion:
    """A text-to-image model: `LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0]`."""

    def __init__(self, parts: ModelParts, name: str = "", device: torch.device | str = "cpu") -> None:
        """parts: the networks, which are moved to `device`; name: what recipes call the model."""
        self.parts, self.name, self.device = parts, name, torch.device(device)
        self.load_options: dict[str, Any] = {}  # what the caller said of a single file against what it says itself
        self.embeddings: dict[str, Embedding] = {}
        self._embedding_files: dict[str, str] = {}
        self._lora_files: dict[str, str] = {}
        for network in (parts.text, parts.unet, parts.autoencoder, parts.upscaler):
            if network is not None:
                network.to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        variant: str | None = None,
    ) -> "LatentDiffusion":
        """Open a shipped model by name, a model folder, or a hub id, which alone may go online.

        dtype: a torch dtype or its name; by default fp32, and fp16 on a CUDA device, where the autoencoder stays fp32.
        device: by default the best there is. revision: branch, tag or commit on the hub. variant: which files to take
        where there are several, e.g. `fp16`.

        Raises:
            ValueError: an unknown dtype or device, a revision of what is not on the hub.
            FileNotFoundError, ModelFileError: no such model, or a damaged one; says which file and what to do.
        """
        place = device_for(device)
        kind = dtype_for(dtype, place)
        return cls(load_folder(find_model(str(model), revision, variant), kind, variant), str(model), place)

    @classmethod
    def from_single_file(
        cls,
        path: str | Path,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        prediction_type: str | None = None,
        zero_terminal_snr: bool | None = None,
        family: str | None = None,
        ema: bool = False,
    ) -> "LatentDiffusion":
        """Open a single-file checkpoint, offline; see `ldm.io.single_file.load.load_single_file` and `from_pretrained`.

        prediction_type, zero_terminal_snr, family: what the file is, where it does not say or says it wrong. Recipes of
        the pictures record it.
        """
        from ldm.io.single_file.load import load_single_file

        place = device_for(device)
        parts = load_single_file(
            Path(path),
            dtype=dtype_for(dtype, place),
            prediction_type=prediction_type,
            zero_terminal_snr=zero_terminal_snr,
            family=family,
            ema=ema,
        )
        model = cls(parts, str(path), place)
        given = {"prediction_type": prediction_type, "zero_terminal_snr": zero_terminal_snr, "family": family}
        model.load_options = {name: value for name, value in {**given, "ema": ema or None}.items() if value is not None}
        return model

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model folder, atomically; diffusers' pipeline of such a model opens it too. See `save_folder`.

        dtype: of the weights in the files; None keeps what they are in.
        """
        save_folder(self.parts, Path(folder), dtype)

    def load_embedding(self, path: str | Path, name: str | None = None) -> str:
        """Make a textual inversion a word of prompts; returns the word, by default the file's name without suffix.

        Raises ValueError, FileNotFoundError or OSError as `ldm.io.embedding.load_embedding`.
        """
        from ldm.io.embedding import load_embedding

        if self.parts.text is None:
            raise ValueError(f"{path}: this model has no text encoder, so it reads no embeddings")
        embedding = load_embedding(path, [tower.width for tower in self.parts.text.towers], name)
        self.embeddings[embedding.name] = embedding
        self._embedding_files[str(path)] = embedding.name
        return embedding.name

    @cached_property
    def loras(self) -> "LoraSet":
        """The adapters of this model: change their weights, unload them."""
        from ldm.adapters.lora.adapter_set import LoraSet

        towers = {} if self.parts.text is None else towers_by_folder(self.parts.text)
        return LoraSet(self.parts.unet, *(towers[name].model if name in towers else None for name in PLACES))

    def load_lora(
        self, path: str | Path, weight: "AdapterWeight" = 1.0, name: str | None = None, allow_unmatched: bool = False
    ) -> "LoraReport":
        """Merge a LoRA (kohya, diffusers or PEFT file) into the model; several add up. See `LoraSet.load`.

        In a prompt `<lora:name:0.8>` gives a loaded one another weight for that picture.
        """
        report = self.loras.load(path, weight, name, allow_unmatched)
        self._lora_files[str(path)] = report.name
        return report

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
        clip_skip: int = 0,
        prompt_syntax: str = "a1111",
        wildcards: str | Path | None = None,
        regions: Sequence[RegionalPrompt] = (),
        guidance_options: Mapping[str, Any] | None = None,
        sampler_options: Mapping[str, OptionValue] | None = None,
        schedule_options: Mapping[str, OptionValue] | None = None,
        weak_model: "LatentDiffusion | None" = None,
        conditions: ExtraConditioning | None = None,
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
            sampler, schedule: keys of `ldm.samplers.SAMPLERS` and `ldm.schedules.SCHEDULES`, or the names that
                ComfyUI, A1111 and diffusers have for them, such as "DPM++ 2M Karras".
            output_type: pil, pt, np or latent, see `Result.images`.
            latents: initial noise (B, C, h, w) of variance 1 in place of the drawn one.
            upscale: run the model's upscaler, if it has one.
            callback: called after every step; an exception from it stops the drawing.
            clip_skip: layers of the text encoder left out before the last; A1111's "Clip skip: 2" is 1.
            prompt_syntax: `a1111`, `comfy` or `plain`, see `conditioning.prompt`.
            wildcards: folder of the files that `__name__` in prompts draws from.
            regions: prompts for parts of the picture, by mask.
            guidance_options: fields of `ldm.guidance.GuidanceSettings`, e.g. {"pag_scale": 3.0}.
            sampler_options, schedule_options: e.g. {"eta": 0.5}, {"rho": 5.0}.
            weak_model: the worse model of autoguidance, on the same latents, for `autoguidance_scale`.
            conditions: pictures in latent space, for models that are made for them, and the sizes that SDXL is told.
                All guidance is towards the prompt alone: InstructPix2Pix's second scale, for its picture, is not there.

        Raises:
            ValueError: names the argument, its value and a possible one.
            NonFiniteError: a network gave NaN or infinity.
        """
        started = time.perf_counter()
        look_up("output_type", output_type, dict.fromkeys(OUTPUT_TYPES))
        own = self.parts.defaults
        upscaler = self.parts.upscaler if upscale and output_type != "latent" else None
        enlarged = 1 if upscaler is None else upscaler.config.factor
        conditioning = conditions or ExtraConditioning()
        factor = self.parts.latent_format.factor
        usual_height, usual_width = conditioning.pixels(factor) or (own.height, own.width)
        prompts = repeat_each(prompt, num_images_per_prompt)
        seeds = seeds_for(seed, generator, len(prompts))
        if prompt_syntax != "plain":
            folder = None if wildcards is None else Path(wildcards)
            prompts = [draw(text, each, folder) for text, each in zip(prompts, seeds, strict=True)]
        one_negative = isinstance(negative_prompt, str)
        defaults = GuidanceSettings(guidance_scale=own.guidance_scale, guidance_rescale=own.guidance_rescale)
        sampling = sampling_for(own, sampler, schedule, sampler_options, schedule_options)
        resolved = ResolvedRequest(
            prompts=prompts,
            negatives=repeat_each(negative_prompt, len(prompts) if one_negative else num_images_per_prompt),
            seeds=seeds,
            steps=sampling.steps(self.parts.process, num_inference_steps, own.num_inference_steps),
            guidance=guidance_for(defaults, guidance_scale, guidance_rescale, guidance_options),
            sampling=sampling,
            clip_skip=clip_skip,
            prompt_syntax=prompt_syntax,
            width=usual_width * enlarged if width is None else width,
            height=usual_height * enlarged if height is None else height,
            enlarged=enlarged,
            multiple=max(8, factor) * enlarged,
            conditions=conditioning,
        )
        with torch.inference_mode():
            latents_out = self._draw(resolved, generator, latents, callback, regions, weak_model)
            images = latents_out if output_type == "latent" else self.decode(latents_out, resolved.enlarged > 1)
        given = (generator, latents, conditioning.concat)
        repeatable = all(each is None for each in given) and all(region.file for region in regions)
        return Result(
            images=in_form(images.clone(), output_type),
            seeds=resolved.seeds,
            seconds=time.perf_counter() - started,
            prompts=resolved.prompts,
            recipes=self._recipes(resolved, regions, weak_model) if repeatable else [],
        )

    def token_report(self, prompt: str, prompt_syntax: str = "a1111") -> TokenReport:
        """How many tokens and chunks of the text encoder the prompt fills."""
        if self.parts.text is None:
            return TokenReport(prompt, 0, 0)
        return PromptEncoder(self.parts.text, prompt_syntax, embeddings=self.embeddings).report(prompt)

    def decode(self, latents: Tensor, upscale: bool = True) -> Tensor:
        """Denoiser's latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], fp32. Raises NonFiniteError."""
        parts = self.parts
        z = parts.latent_format.to_autoencoder(latents).to(next(parts.autoencoder.parameters()).dtype)
        images = parts.autoencoder.decode(z).float()
        if upscale and parts.upscaler is not None:
            images = parts.upscaler(images.clamp(-1, 1)).float()
        check_finite(images, "autoencoder")
        return (images / 2 + 0.5).clamp(0, 1)

    def _draw(
        self,
        resolved: ResolvedRequest,
        generator: Generators | None,
        latents: Tensor | None,
        callback: Callable[[Step], None] | None,
        regions: Sequence[RegionalPrompt],
        weak_model: "LatentDiffusion | None",
    ) -> Tensor:
        """Latents of all pictures; those that are told things of the same form go through the network together."""
        shape = self.parts.latent_format.channels, *resolved.cells(self.parts.latent_format.factor)
        count = len(resolved.seeds)
        if latents is not None and tuple(latents.shape) != (count, *shape):
            raise ValueError(f"latents are {tuple(latents.shape)}; this call needs {(count, *shape)}")
        resolved.conditions.check(self.parts.unet.config, count, shape[1:])
        generators = None if generator is None else one_each(generator, count)
        reader = self._reader(resolved)
        tagged = [lora_tags(prompt) for prompt in resolved.prompts]
        timelines = [
            parse_timeline(text, negative, resolved.steps, reader, regions)
            for (text, _), negative in zip(tagged, resolved.negatives, strict=True)
        ]
        latents_out = torch.empty(count, *shape, device=self.device)
        for rows in alike(
            [(timeline.form, tuple(tags)) for timeline, (_, tags) in zip(timelines, tagged, strict=True)]
        ):
            if generators is None:
                noise = NoiseSource([resolved.seeds[row] for row in rows], shape, self.device)
            else:
                noise = NoiseSource.from_generators([generators[row] for row in rows], shape, self.device)
            first = noise() if latents is None else latents[rows].to(self.device, torch.float32)
            weights = {tag.name: tag.weights for tag in tagged[rows[0]][1]}
            with self.loras.temporarily(weights) if weights else nullcontext():
                conditioning = [timelines[row] for row in rows]
                latents_out[rows] = self._denoise(
                    resolved, rows, conditioning, reader, first, noise, callback, regions, weak_model
                )
        return latents_out

    def _denoise(
        self,
        resolved: ResolvedRequest,
        rows: Sequence[int],
        timelines: Sequence[PromptTimeline],
        reader: Reader,
        first: Tensor,
        noise: NoiseSource,
        callback: Callable[[Step], None] | None,
        regions: Sequence[RegionalPrompt],
        weak_model: "LatentDiffusion | None",
    ) -> Tensor:
        process = resolved.sampling.process(self.parts.process)
        grid = resolved.sampling.grid(process, resolved.steps)

        def denoiser(conditioning: Conditioning) -> NetworkDenoiser:
            return NetworkDenoiser(self.parts.unet, process, self.parts.prediction_type, conditioning)

        weak = None if weak_model is None else weak_model._weak_denoiser(self, resolved, rows, process)
        denoise = timeline_denoiser(
            timelines, reader, self._joined(resolved, rows), denoiser, resolved.guidance, grid, regions, weak
        )
        x = process.initial(first, grid[0])
        for step in resolved.sampling.make()(denoise, x, grid, noise):
            x = step.x
            if callback is not None:
                callback(step)
        check_finite(x, "U-Net")
        return x

    def _reader(self, resolved: ResolvedRequest) -> Reader:
        if self.parts.text is None:
            return ClassReader(self.parts.unet.config.num_classes)
        return PromptEncoder(
            self.parts.text,
            resolved.prompt_syntax,
            resolved.clip_skip,
            self.embeddings,
            zeros_for_empty=self.parts.zeros_for_empty,
        )

    def _joined(self, resolved: ResolvedRequest, rows: Sequence[int]) -> Join:
        """Adds to the texts of some pictures what else this model is told about them."""
        config, size = (
            self.parts.unet.config,
            (resolved.height // resolved.enlarged, resolved.width // resolved.enlarged),
        )
        return lambda conditioning, negative: resolved.conditions.join(conditioning, config, rows, size, negative).to(
            self.device
        )

    def _weak_denoiser(
        self, strong: "LatentDiffusion", resolved: ResolvedRequest, rows: Sequence[int], process: Process
    ) -> Callable[[Sequence[str]], NetworkDenoiser]:
        """This model as the worse one of autoguidance for `strong`: told the same texts by its own text encoder."""
        if self.parts.process != strong.parts.process:
            raise ValueError("weak_model was trained on another noise schedule; autoguidance needs the same")
        if self.parts.unet.config.out_channels != strong.parts.unet.config.out_channels:
            raise ValueError("weak_model has latents of other channels; autoguidance needs the same autoencoder")
        resolved.conditions.check(
            self.parts.unet.config, len(resolved.seeds), resolved.cells(strong.parts.latent_format.factor)
        )
        reader, join = self._reader(resolved), self._joined(resolved, rows)

        def denoiser(texts: Sequence[str]) -> NetworkDenoiser:
            conditioning = join(Conditioning.cat([reader.encode([text]) for text in texts]), False)
            return NetworkDenoiser(self.parts.unet, process, self.parts.prediction_type, conditioning)

        return denoiser

    def _recipes(
        self, resolved: ResolvedRequest, regions: Sequence[RegionalPrompt], weak_model: "LatentDiffusion | None"
    ) -> list[Recipe]:
        weights = self.loras.weights if self._lora_files else {}
        sampler_options, schedule_options = options_beyond(resolved.sampling, self.parts.defaults)
        return [
            Recipe(
                prompt=prompt if resolved.prompt_syntax == "plain" else literal(prompt),
                negative_prompt=negative,
                seed=seed,
                num_inference_steps=resolved.steps,
                guidance_scale=resolved.guidance.guidance_scale,
                guidance_rescale=resolved.guidance.guidance_rescale,
                sampler=resolved.sampling.sampler,
                schedule=resolved.sampling.schedule,
                width=resolved.width,
                height=resolved.height,
                upscale=resolved.enlarged > 1,
                model=self.name,
                dtype=str(next(self.parts.unet.parameters()).dtype).removeprefix("torch."),
                device=str(self.device),
                version=ldm.__version__,
                clip_skip=resolved.clip_skip,
                prompt_syntax=resolved.prompt_syntax,
                guidance_options=guidance_options(resolved.guidance),
                sampler_options=sampler_options,
                schedule_options=schedule_options,
                weak_model="" if weak_model is None else weak_model.name,
                loras={path: weights[name] for path, name in self._lora_files.items() if name in weights},
                embeddings=dict(self._embedding_files),
                regions={region.file: region.prompt for region in regions},
                conditions=resolved.conditions.recipe(),
                load_options=dict(self.load_options),
            )
            for prompt, negative, seed in zip(resolved.prompts, resolved.negatives, resolved.seeds, strict=True)
        ]
