"""`LatentDiffusion`: conditioner, denoiser, sampler and autoencoder put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conditioning.clip.clip_text import TokenReport
from ldm.generation.callbacks import StepEnd, step_end, with_bar
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import DrawStep, Start, Wrap, draw
from ldm.generation.drawing import Drawing
from ldm.generation.first_noise import FirstNoise
from ldm.generation.keywords import explain_keywords
from ldm.generation.opened_model import OpenedModel
from ldm.generation.own_sampler import is_function, sampling_fields
from ldm.generation.prompt_embeds import PromptEmbeds
from ldm.generation.regional_prompt import RegionalPrompt
from ldm.generation.request import Request
from ldm.generation.resolve import ResolvedRequest, resolve_request
from ldm.generation.result import OUTPUT_TYPES, Result, in_form
from ldm.generation.task import Task, TaskSetup
from ldm.generation.texts import Generators
from ldm.naming import OptionValue, look_up
from ldm.networks.attention import AttentionHook
from ldm.pipeline.pictures import PictureMethods
from ldm.samplers import Sampler
from ldm.tasks.table import task_from

if TYPE_CHECKING:
    from PIL.Image import Image


class LatentDiffusion(PictureMethods, OpenedModel):
    """A text-to-image model: `LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0]`."""

    @explain_keywords
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        fast: bool | None = None,
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
        latents: Tensor | str | Path | None = None,
        variation_seed: int | None = None,
        variation_strength: float = 0.0,
        upscale: bool = True,
        callback: Callable[[DrawStep], None] | None = None,
        callback_on_step_end: StepEnd | None = None,
        progress_bar: bool = False,
        clip_skip: int = 0,
        prompt_syntax: str = "a1111",
        prompt_2: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        wildcards: str | Path | None = None,
        regions: Sequence[RegionalPrompt] = (),
        guidance_options: Mapping[str, Any] | None = None,
        cache_options: Mapping[str, Any] | None = None,
        token_merging: float = 0.0,
        sampler_options: Mapping[str, OptionValue] | None = None,
        schedule_options: Mapping[str, OptionValue] | None = None,
        weak_model: OpenedModel | None = None,
        conditions: ExtraConditioning | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        attention_hook: AttentionHook | None = None,
        task: Task | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        tile_jitter: bool = False,
        seamless: str | None = None,
        vae_memory: float | None = None,
    ) -> Result:
        """Draw pictures. What is None is the model's default.

        Args:
            prompt: one or several; each gives `num_images_per_prompt` pictures, one after the other.
            negative_prompt: what to stay away from; one for all prompts, or a list with one each.
            num_inference_steps: of the sampler.
            fast: draw in few steps, with a model that has weights for it (`ModelParts.few_steps`). None does what the
                model says, unless a setting of the full model is given: steps, guidance, sampler, a negative prompt.
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
            latents: initial noise (B, C, h, w) of variance 1 in place of what the seed gives, or a file with it, which
                recipes can name: .safetensors, .npy, .npz, .pt.
            variation_seed: a second seed, towards whose noise the first noise is turned; picture i has it + i, and the
                seed is that of all pictures then, as in A1111.
            variation_strength: how far, 0 to 1; 0 is the seed's picture.
            upscale: run the model's upscaler, if it has one.
            callback: called after every step; an exception from it stops the drawing.
            callback_on_step_end: likewise in diffusers' form, (model, index, timestep, {"latents": x}) -> dict; latents
                that it returns changed take x's place, see `Drawing.go_on_from`.
            progress_bar: show one, in a terminal or a notebook.
            clip_skip: layers of the text encoder left out beyond the model's own habit, as in diffusers; negative
                counts from the last, as A1111 and ComfyUI do: -2 is 1 for Stable Diffusion 1, and SDXL's default.
            prompt_syntax: `a1111`, `comfy` or `plain`, see `conditioning.prompt`.
            prompt_2: what SDXL's second text encoder reads in place of `prompt`; one, or one for each prompt.
            negative_prompt_2: likewise in place of `negative_prompt`.
            wildcards: folder of the files that `__name__` in prompts draws from.
            regions: prompts for parts of the picture, by mask.
            guidance_options: fields of `ldm.guidance.GuidanceSettings`, e.g. {"pag_scale": 3.0}.
            cache_options: fields of `ldm.networks.feature_cache.CacheSettings`, e.g. {"deepcache": 3}.
            token_merging: the share of tokens that self-attention of the finest resolution takes together, 0 to 0.75.
            sampler_options: options of the sampler, e.g. {"eta": 0.5}.
            schedule_options: options of the schedule, e.g. {"rho": 5.0}.
            weak_model: the worse model of autoguidance, on the same latents, for `autoguidance_scale`.
            conditions: pictures in latent space, for models made for them, and sizes for SDXL.
                All guidance is towards the prompt alone; InstructPix2Pix's second scale is one of `instruct`.
            prompt_embeds: (B, L, D) in place of B prompts, see `encode_prompt`.
            negative_prompt_embeds: (B, L, D) or (1, L, D) in place of negative prompts.
            pooled_prompt_embeds: (B, P), with `prompt_embeds` for SDXL.
            negative_pooled_prompt_embeds: (B, P) or (1, P), with `negative_prompt_embeds` for SDXL.
            attention_hook: (layer, q, k, v, mask) -> out computes every attention of the denoising network; q is
                (B, N, Lq, D), `layer.name` says which, `layer.attend(q, k, v, mask)` is what it would do itself. Each
                layer calls it once a step for the negative prompt (while there is guidance), then for the prompt.
            task: what is done with a picture that is put in; the methods of this class that are named after tasks
                make it.
            tile_size: side of the tiles that a larger picture is drawn in, in pixels of the finished picture; the
                model's own size suits best. None draws every picture in one piece.
            tile_overlap: what neighbouring tiles share at least, in pixels; by default a quarter of them.
            tile_jitter: move the borders between tiles from step to step.
            seamless: a pattern whose left and right edge meet (x), top and bottom (y), or all (xy).
            vae_memory: GB that the autoencoder may take before it goes tile by tile.

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
            prompt=_texts(prompt),
            negative_prompt=_texts(negative_prompt),
            num_inference_steps=num_inference_steps,
            fast=fast,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            width=width,
            height=height,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            tile_jitter=tile_jitter,
            seamless=seamless,
            vae_memory=vae_memory,
            seed=seed,
            variation_seed=variation_seed,
            variation_strength=variation_strength,
            latents=str(latents) if isinstance(latents, str | Path) else None,
            num_images_per_prompt=num_images_per_prompt,
            batch_size=batch_size,
            upscale=upscale,
            clip_skip=clip_skip,
            prompt_syntax=prompt_syntax,
            prompt_2=None if prompt_2 is None else _texts(prompt_2),
            negative_prompt_2=None if negative_prompt_2 is None else _texts(negative_prompt_2),
            wildcards=None if wildcards is None else str(wildcards),
            guidance_options=guidance_options or {},
            cache_options=cache_options or {},
            token_merging=token_merging,
            **names,
        )
        drawing = self.steps(
            request,
            regions=regions,
            weak_model=weak_model,
            conditions=conditions,
            generator=generator,
            latents=latents if isinstance(latents, Tensor) else None,
            output_type=output_type,
            embeds=embeds,
            sampler=sampler if is_function(sampler) else None,
            attention_hook=attention_hook,
            task=task,
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
        weak_model: OpenedModel | None = None,
        conditions: ExtraConditioning | None = None,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        start: Start | None = None,
        wrap: Wrap | None = None,
        output_type: str = "pil",
        embeds: PromptEmbeds | None = None,
        sampler: Sampler | None = None,
        attention_hook: AttentionHook | None = None,
        task: Task | None = None,
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
            task: in place of the one that the request describes; it says itself where the sampling starts.

        Raises:
            ValueError: names the setting, its value and a possible one.
        """
        look_up("output_type", output_type, dict.fromkeys(OUTPUT_TYPES))
        if output_type == "latent":
            request = replace(request, upscale=False)
        request.check()
        model, weak_model = self._for(request), None if weak_model is None else weak_model._for(request)
        if task is None and request.task:
            task = task_from(request.task)
        if task is not None:
            if start is not None or wrap is not None:
                raise ValueError("a task says itself where the sampling starts; leave out start and wrap")
            request = replace(task.fit(model, request), task=task.settings)
        resolved = resolve_request(model, request, regions, weak_model, conditions, generator, embeds, sampler)
        setup = TaskSetup(start, wrap)
        if latents is not None:
            first_noise = FirstNoise.given(latents, len(resolved.prompts), resolved.latent_size)
            resolved = replace(resolved, first_noise=first_noise)
        if task is not None:
            with torch.no_grad():  # what it makes may be part of a gradient
                setup = task.set_up(model, resolved)
            resolved = resolved.set_up(setup.grid, setup.sampler, setup.size)
        unnamed = (start, wrap, latents, attention_hook)
        if any(given is not None for given in unnamed) or not (task is None or task.repeatable):
            resolved = replace(resolved, repeatable=False)
        steps = draw(model, resolved, setup.start, setup.wrap, setup.conditions, attention_hook)
        return Drawing(
            steps, partial(model._finish, resolved, setup, output_type), len(resolved.prompts), setup.gradients
        )

    def _finish(
        self, resolved: ResolvedRequest, setup: TaskSetup, output_type: str, latents: Tensor, repeatable: bool
    ) -> Result:
        """The result of denoised latents, without its seconds."""
        finished: Tensor | list[Image] = latents
        with torch.inference_mode():
            if output_type != "latent" and setup.finish is not None:
                finished = setup.finish(latents)
            elif output_type != "latent":
                batches = latents.split(resolved.batch_size)
                finished = torch.cat([self.decode(batch, resolved.recipe.upscale) for batch in batches])
        # Where memory ran out, the autoencoder went on in tiles, which a recipe has to repeat.
        resolved = replace(resolved, recipe=replace(resolved.recipe, vae_memory=self.vae_memory))
        recipes = resolved.recipes if repeatable else []
        return Result(
            images=in_form(finished.clone() if isinstance(finished, Tensor) else finished, output_type, recipes),
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


def _texts(given: str | Sequence[str]) -> str | tuple[str, ...]:
    return given if isinstance(given, str) else tuple(given)
