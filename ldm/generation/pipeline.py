"""Text to image: conditioner, denoiser, sampler and autoencoder put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoencoder.tiny import TinyAutoencoder
from conditioning.clip.clip_text import TokenReport
from ldm.engine.eager import EAGER
from ldm.engine.engine import Engine
from ldm.engine.memory import bound_compiled_kernels
from ldm.engine.placement import device_for, dtype_for
from ldm.families.parts import ModelParts
from ldm.generation.adapted_model import AdaptedModel
from ldm.generation.callbacks import StepEnd, step_end, with_bar
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import DrawStep, Start, Wrap, draw
from ldm.generation.drawing import Drawing
from ldm.generation.keywords import explain_keywords
from ldm.generation.own_sampler import is_function, sampling_fields
from ldm.generation.prompt_embeds import PromptEmbeds
from ldm.generation.regional_prompt import RegionalPrompt
from ldm.generation.request import Request
from ldm.generation.resolve import Generators, ResolvedRequest, resolve_request
from ldm.generation.result import OUTPUT_TYPES, Result, in_form
from ldm.io.folder.load import load_folder, save_folder
from ldm.io.locate import find_autoencoder, find_model
from ldm.io.vae import read_autoencoder
from ldm.naming import OptionValue, look_up
from ldm.networks.attention import AttentionHook, set_attention
from ldm.networks.backends import BACKENDS, DEFAULT
from ldm.samplers import Sampler

if TYPE_CHECKING:
    pass


class LatentDiffusion(AdaptedModel):
    """A text-to-image model: `LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0]`."""

    def __init__(
        self,
        parts: ModelParts,
        name: str = "",
        device: torch.device | str = "cpu",
        attention: str = DEFAULT,
        engine: Engine = EAGER,
    ) -> None:
        """Put a model together.

        Args:
            parts: the networks, which are moved to `device`.
            name: what recipes call the model.
            device: where the networks run.
            attention: the backend of the denoising network, see `ldm.networks.attention.set_attention`.
            engine: what runs the denoising network.

        Raises:
            ValueError: an unknown device or backend.
        """
        bound_compiled_kernels()
        set_attention(parts.unet, attention)
        self.parts, self.name, self.device = parts, name, torch.device(device)
        self.attention, self.engine = attention, engine
        self.vae_source: str | None = None  # where the autoencoder is from, if it is not the model's own
        self.preview_autoencoder: TinyAutoencoder | None = None
        self.load_options: dict[str, Any] = {}  # what the caller said of a single file against what it says itself
        self._begin_without_adapters()
        for network in (parts.text, parts.unet, parts.autoencoder, parts.upscaler):
            if network is not None:
                network.to(self.device)

    @classmethod
    @explain_keywords
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        attention: str = DEFAULT,
        vae: str | Path | None = None,
        mmap: bool = True,
    ) -> "LatentDiffusion":
        """Open a shipped model by name, a model folder, or a hub id, which alone may go online.

        Args:
            model: the name, folder or id.
            dtype: a torch dtype or its name; by default fp32, and fp16 on a CUDA device, where the autoencoder stays
                fp32.
            device: by default the best there is.
            revision: branch, tag or commit on the hub.
            variant: which files to take where there are several, e.g. `fp16`.
            attention: the backend of the denoising network, one of `ldm.networks.backends.BACKENDS`.
            vae: an autoencoder in place of the model's own: a file, a folder, a hub id; TAESD too.
            mmap: leave weights in their files, which the system reads when they are needed. While the model lives such
                a file may be replaced but not written over or cut: the system ends a process that reads what is gone.
                False copies all into memory.

        Raises:
            ValueError: an unknown dtype, device or backend, a revision of what is not on the hub.
            FileNotFoundError, ModelFileError: no such model, or a damaged one; says which file and what to do.
        """
        place = device_for(device)
        kind = dtype_for(dtype, place)
        look_up("attention backend", attention, dict.fromkeys(BACKENDS))
        stored = None if vae is None else read_autoencoder(find_autoencoder(str(vae)))
        parts = load_folder(find_model(str(model), revision, variant), kind, variant, stored)
        opened = cls(parts if mmap else parts.in_memory(), str(model), place, attention)
        opened.vae_source = None if vae is None else str(vae)
        return opened

    @classmethod
    @explain_keywords
    def from_single_file(
        cls,
        path: str | Path,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        prediction_type: str | None = None,
        zero_terminal_snr: bool | None = None,
        family: str | None = None,
        ema: bool = False,
        attention: str = DEFAULT,
        vae: str | Path | None = None,
        mmap: bool = True,
    ) -> "LatentDiffusion":
        """Open a single-file checkpoint, offline; see `ldm.io.single_file.load.load_single_file` and `from_pretrained`.

        Args:
            path: of the file.
            dtype: of the networks; fp32 by default, and fp16 on a CUDA device.
            device: where the networks run; by default the best there is.
            prediction_type: `epsilon` or `v_prediction`, where the file does not say or says it wrong; recipes of the
                pictures record it.
            zero_terminal_snr: whether the noise has zero terminal SNR, likewise.
            family: a key of `FAMILIES`, likewise.
            ema: take the moving average of the U-Net, if the file has one.
            attention: the backend of the denoising network.
            vae: as in `from_pretrained`.
            mmap: False copies all weights into memory, see `from_pretrained`.
        """
        from ldm.io.single_file.load import load_single_file

        look_up("attention backend", attention, dict.fromkeys(BACKENDS))
        place = device_for(device)
        parts = load_single_file(
            Path(path),
            dtype=dtype_for(dtype, place),
            prediction_type=prediction_type,
            zero_terminal_snr=zero_terminal_snr,
            family=family,
            ema=ema,
            vae=None if vae is None else read_autoencoder(find_autoencoder(str(vae))),
        )
        model = cls(parts if mmap else parts.in_memory(), str(path), place, attention)
        model.vae_source = None if vae is None else str(vae)
        given = {"prediction_type": prediction_type, "zero_terminal_snr": zero_terminal_snr, "family": family}
        model.load_options = {name: value for name, value in {**given, "ema": ema or None}.items() if value is not None}
        return model

    @classmethod
    def from_diffusers(
        cls, pipeline: Any, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
    ) -> "LatentDiffusion":
        """Take over a diffusers pipeline (Stable Diffusion 1, 2 or XL) with the weights that it has now.

        Args:
            pipeline: which stays as it is.
            dtype: of the networks; by default that of its U-Net.
            device: where they run; by default where the pipeline is.

        Raises:
            ValueError, ModelFileError: as `ldm.io.folder.from_pipeline.load_pipeline`.
        """
        from ldm.io.folder.from_pipeline import load_pipeline

        place = device_for(pipeline.device if device is None else device)
        parts = load_pipeline(pipeline, dtype_for(dtype or pipeline.unet.dtype, place))
        return cls(parts, pipeline.config.get("_name_or_path") or type(pipeline).__name__, place)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, overwrite: bool = False) -> None:
        """Write the model folder, atomically; diffusers' pipeline of such a model opens it too. See `save_folder`.

        Args:
            folder: of the model.
            dtype: of the weights in the files; None keeps what they are in.
            overwrite: replace the files of a model that is there; other files stay.

        Raises:
            FileExistsError: the folder is not empty, and `overwrite` is not set.
        """
        if not overwrite and Path(folder).is_dir() and any(Path(folder).iterdir()):
            raise FileExistsError(f"{folder} is not empty; give another folder, or overwrite=True to replace the model")
        save_folder(self.parts, Path(folder), dtype)

    def load_preview(self, path: str | Path) -> None:
        """Let `preview` of each step be decoded by a TAESD, in full size, before any upscaler.

        Args:
            path: file, folder or hub id of a TAESD made for this kind of model.

        Raises:
            ValueError: it is no TAESD.
            FileNotFoundError, ModelFileError: it is missing, damaged, or for other latents.
        """
        stored = read_autoencoder(find_autoencoder(str(path)))
        stored.format_for(self.parts.latent_format)
        network = stored.load(torch.float32)
        if not isinstance(network, TinyAutoencoder):
            raise ValueError(f"{path} is a large autoencoder, too slow for previews; name a TAESD, or give it as vae=")
        self.preview_autoencoder = network.to(self.device)

    @explain_keywords
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        generator: Generators | None = None,
        num_images_per_prompt: int = 1,
        batch_size: int | None = None,
        sampler: Any = None,
        schedule: str | None = None,
        output_type: str = "pil",
        latents: Tensor | None = None,
        upscale: bool = True,
        callback: Callable[[DrawStep], None] | None = None,
        callback_on_step_end: StepEnd | None = None,
        progress_bar: bool = False,
        clip_skip: int = 0,
        prompt_syntax: str = "a1111",
        wildcards: str | Path | None = None,
        regions: Sequence[RegionalPrompt] = (),
        guidance_options: Mapping[str, Any] | None = None,
        sampler_options: Mapping[str, OptionValue] | None = None,
        schedule_options: Mapping[str, OptionValue] | None = None,
        weak_model: "LatentDiffusion | None" = None,
        conditions: ExtraConditioning | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        attention_hook: AttentionHook | None = None,
    ) -> Result:
        """Draw pictures. What is None is the model's default.

        Args:
            prompt: one or several; each gives `num_images_per_prompt` pictures, one after the other.
            negative_prompt: what to stay away from; one for all prompts, or a list with one each.
            num_inference_steps: of the sampler.
            guidance_scale: 1 is no guidance.
            guidance_rescale: 0 to 1, see `ldm.guidance.rescale_contrast`.
            width: of the finished picture, in pixels, which an upscaler makes larger than what is denoised.
            height: likewise.
            seed: of the first picture, >= 0; picture i has seed + i and is the one that `seed + i` gives alone.
            generator: CPU generators in place of a seed: one per picture, or one for all.
            num_images_per_prompt: pictures of each prompt.
            batch_size: how many pictures go through the network together; None is all of a call.
            sampler: a key of `ldm.samplers.SAMPLERS`, or a name of ComfyUI, A1111 or diffusers such as "DPM++ 2M
                Karras"; a scheduler of diffusers; or a sampler of your own, a function like those of `ldm.samplers`:
                (denoise, x (B, C, h, w), grid (n + 1,), noise, *, own options) -> iterator of `ldm.samplers.Step`.
            schedule: a key of `ldm.schedules.SCHEDULES`, or such a name.
            output_type: pil, pt, np or latent, see `Result.images`.
            latents: initial noise (B, C, h, w) of variance 1 in place of what the seed gives.
            upscale: run the model's upscaler, if it has one.
            callback: called after every step; an exception from it stops the drawing.
            callback_on_step_end: likewise in diffusers' form, (model, index, timestep, {"latents": x}) -> dict; latents
                that it returns changed take x's place, see `Drawing.go_on_from`.
            progress_bar: show one, in a terminal or a notebook.
            clip_skip: layers of the text encoder left out beyond the model's own habit, as in diffusers; negative
                counts from the last, as A1111 and ComfyUI do: -2 is 1 for Stable Diffusion 1, and SDXL's default.
            prompt_syntax: `a1111`, `comfy` or `plain`, see `conditioning.prompt`.
            wildcards: folder of the files that `__name__` in prompts draws from.
            regions: prompts for parts of the picture, by mask.
            guidance_options: fields of `ldm.guidance.GuidanceSettings`, e.g. {"pag_scale": 3.0}.
            sampler_options: options of the sampler, e.g. {"eta": 0.5}.
            schedule_options: options of the schedule, e.g. {"rho": 5.0}.
            weak_model: the worse model of autoguidance, on the same latents, for `autoguidance_scale`.
            conditions: pictures in latent space, for models made for them, and sizes for SDXL.
                All guidance is towards the prompt alone: InstructPix2Pix's second scale, for its picture, is not there.
            prompt_embeds: (B, L, D) in place of B prompts, see `encode_prompt`.
            negative_prompt_embeds: (B, L, D) or (1, L, D) in place of negative prompts.
            pooled_prompt_embeds: (B, P), with `prompt_embeds` for SDXL.
            negative_pooled_prompt_embeds: (B, P) or (1, P), with `negative_prompt_embeds` for SDXL.
            attention_hook: (layer, q, k, v, mask) -> out computes every attention of the denoising network; q is
                (B, N, Lq, D), `layer.name` says which, `layer.attend(q, k, v, mask)` is what it would do itself. Each
                layer calls it once a step for the negative prompt (while there is guidance), then for the prompt.

        Raises:
            TypeError: an unknown keyword; names the right one.
            ValueError: names the argument, its value and a possible one.
            NonFiniteError: a network gave NaN or infinity.
        """
        embeds = None
        given = (prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds)
        if any(each is not None for each in given):
            embeds = PromptEmbeds(*given)
            prompt, negative_prompt = embeds.prompts(prompt), embeds.negatives(negative_prompt)
        if prompt is None:
            raise ValueError("there is no prompt; give one, or prompt_embeds")
        names = sampling_fields(sampler, schedule, sampler_options, schedule_options, self.parts)
        request = Request(
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            negative_prompt=negative_prompt if isinstance(negative_prompt, str) else tuple(negative_prompt),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            width=width,
            height=height,
            seed=seed,
            num_images_per_prompt=num_images_per_prompt,
            batch_size=batch_size,
            upscale=upscale,
            clip_skip=clip_skip,
            prompt_syntax=prompt_syntax,
            wildcards=None if wildcards is None else str(wildcards),
            guidance_options=guidance_options or {},
            **names,
        )
        drawing = self.steps(
            request,
            regions=regions,
            weak_model=weak_model,
            conditions=conditions,
            generator=generator,
            latents=latents,
            output_type=output_type,
            embeds=embeds,
            sampler=sampler if is_function(sampler) else None,
            attention_hook=attention_hook,
        )
        for step in with_bar(drawing) if progress_bar else drawing:
            if callback is not None:
                callback(step)
            if callback_on_step_end is not None:
                step_end(self, drawing, step, callback_on_step_end)
        return drawing.result

    def steps(
        self,
        request: Request,
        *,
        regions: Sequence[RegionalPrompt] | None = None,
        weak_model: "LatentDiffusion | None" = None,
        conditions: ExtraConditioning | None = None,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        start: Start | None = None,
        wrap: Wrap | None = None,
        output_type: str = "pil",
        embeds: PromptEmbeds | None = None,
        sampler: Sampler | None = None,
        attention_hook: AttentionHook | None = None,
    ) -> Drawing:
        """Draw a request step by step: `for step in (drawing := model.steps(request)): ...`, then `drawing.result`.

        Each step has a lazy `preview`. Leaving the loop early leaves nothing changed.

        Args:
            request: its settings; those about loading (model, dtype, loras, ...) are passed over, as the model is here.
            regions: in place of those that the request names, which are read from their files otherwise.
            weak_model: the opened worse model of autoguidance.
            conditions: in place of those of the request.
            generator: CPU generators in place of a seed: one per picture, or one for all.
            latents: initial noise (B, C, h, w) of variance 1 in place of what the seed gives.
            start: where the sampling starts, see `ldm.generation.draw.draw`.
            wrap: changes the denoiser, see `ldm.generation.draw.draw`.
            output_type: pil, pt, np or latent, see `Result.images`.
            embeds: what the request's prompts name in place of texts, see `PromptEmbeds.prompts`.
            sampler: a function in place of the sampler that the request names, see `__call__`.
            attention_hook: see `__call__`.

        Raises:
            ValueError: names the setting, its value and a possible one.
        """
        look_up("output_type", output_type, dict.fromkeys(OUTPUT_TYPES))
        if output_type == "latent":
            request = replace(request, upscale=False)
        resolved = resolve_request(self, request, regions, weak_model, conditions, generator, embeds, sampler)
        if latents is not None:
            noise = latents.to(self.device, torch.float32)
            start = Start(resolved.process.initial(noise, resolved.grid[0]))
        if any(given is not None for given in (start, wrap, attention_hook)):
            resolved = replace(resolved, repeatable=False)
        steps = draw(self, resolved, start, wrap, hook=attention_hook)
        return Drawing(steps, partial(self._finish, resolved, output_type), len(resolved.prompts))

    def _finish(self, resolved: ResolvedRequest, output_type: str, latents: Tensor, repeatable: bool) -> Result:
        """The result of denoised latents, without its seconds."""
        with torch.inference_mode():
            if output_type != "latent":
                batches = latents.split(resolved.batch_size)
                latents = torch.cat([self.decode(batch, resolved.recipe.upscale) for batch in batches])
        recipes = resolved.recipes if repeatable else []
        return Result(
            images=in_form(latents.clone(), output_type, recipes),
            seeds=resolved.seeds,
            prompts=resolved.prompts,
            recipes=recipes,
            tokens=[timeline.longest for timeline in resolved.timelines],
        )

    def token_report(self, prompt: str, prompt_syntax: str = "a1111") -> TokenReport:
        """How many tokens and chunks of the text encoder the longest text of a prompt fills, as it is read.

        LoRA tags and edits are taken out, and wildcards replaced, as for the picture of seed 0.
        """
        request = Request(prompt=prompt, prompt_syntax=prompt_syntax, seed=0)
        return resolve_request(self, request).timelines[0].longest
