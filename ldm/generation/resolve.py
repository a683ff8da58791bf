"""A request with everything filled in and checked against a model."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import ldm
from autoencoder.tiles import Tiling
from conditioning.prompt.wildcards import literal
from ldm.engine.names import NONE
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.few_steps import defaults_for, few_step_lora_of, in_few_steps
from ldm.generation.first_noise import FirstNoise
from ldm.generation.memory import check_memory, free_memory
from ldm.generation.options_of_methods import caching_for, changed_options, guidance_for, guidance_options
from ldm.generation.own_sampler import function_name
from ldm.generation.prompt_embeds import PromptEmbeds
from ldm.generation.prompt_timeline import PromptTimeline, parse_timeline
from ldm.generation.reader import Reader, reader_of
from ldm.generation.recipe import Recipe
from ldm.generation.regional_prompt import RegionalPrompt
from ldm.generation.request import Request
from ldm.generation.sampler_names import resolve
from ldm.generation.sampling import Sampling, options_beyond, sampling_for
from ldm.generation.sizes import check_multiple, size_for, tile_for
from ldm.generation.texts import Generators, Texts, one_each, texts_and_seeds
from ldm.guidance import GuidanceSettings
from ldm.io import library
from ldm.naming import check_options, look_up
from ldm.networks.feature_cache import CacheSettings
from ldm.process import Process
from ldm.samplers import SAMPLERS, Sampler, make_sampler
from ldm.schedules import SCHEDULES

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel

_BYTES_PER_PIXEL = 8192
"""Bytes per pixel that a decoder of Stable Diffusion's size needs in fp32: several maps of up to 256 channels."""

_MANY = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ResolvedRequest:
    """A request without open settings: what is generated, and how.

    Attributes:
        recipe: every choice made; prompt, negative prompt and seed are those of the first picture.
        texts, seeds: one per picture.
        guidance, sampling, caching: everything about them.
        process: the model's, as the sampler ends it.
        grid: the times `(n + 1,)` of its steps.
        latent_size: (C, h, w) of one picture.
        tiling: in cells of the latent, where the network sees tiles.
        reader: of the texts.
        timelines: of the texts, one per picture.
        conditions: what the network is conditioned on besides texts.
        regions: prompts by mask.
        weak_model: of autoguidance.
        generators: one per picture, in place of seeds.
        first_noise: of each picture, where it is not its seed's.
        repeatable: whether recipes say all that decides the pictures.
    """

    recipe: Recipe
    texts: list[Texts]
    seeds: list[int]
    guidance: GuidanceSettings
    sampling: Sampling
    process: Process
    grid: Tensor
    latent_size: tuple[int, int, int]
    reader: Reader
    timelines: list[PromptTimeline]
    conditions: ExtraConditioning
    caching: CacheSettings = field(default_factory=CacheSettings)
    tiling: Tiling | None = None
    regions: tuple[RegionalPrompt, ...] = ()
    weak_model: "OpenedModel | None" = None
    generators: list[torch.Generator] | None = None
    first_noise: FirstNoise = field(default_factory=FirstNoise)
    repeatable: bool = True

    @property
    def prompts(self) -> list[str]:
        """One per picture."""
        return [each.prompt for each in self.texts]

    @property
    def negatives(self) -> list[str]:
        """One per picture."""
        return [each.negative_prompt for each in self.texts]

    @property
    def batch_size(self) -> int:
        """Pictures that go through the network together, if their prompts have the same form."""
        return self.recipe.batch_size or len(self.texts)

    @property
    def recipes(self) -> list[Recipe]:
        """One per picture; empty where no recipe could repeat them."""
        if not self.repeatable:
            return []
        spelled = (lambda text: text) if self.recipe.prompt_syntax == "plain" else literal
        pictures = enumerate(zip(self.texts, self.seeds, strict=True))
        return [
            replace(self.recipe, **vars(texts.spelled(spelled)), seed=seed, **self.first_noise.recipe(number))
            for number, (texts, seed) in pictures
        ]

    def set_up(self, grid: Tensor | None, sampler: Sampler | None, size: tuple[int, int] | None) -> "ResolvedRequest":
        """The same with what a task changes; None changes nothing.

        Args:
            grid: of as many steps.
            sampler: with all its options.
            size: height and width of the finished picture, for recipes.
        """
        changes: dict[str, Any] = {} if grid is None else {"grid": grid}
        if sampler is not None:
            changes["sampling"] = replace(self.sampling, function=sampler, sampler_options={})
        if size is not None:
            changes["recipe"] = replace(self.recipe, height=size[0], width=size[1])
        return replace(self, **changes)


def resolve_request(
    model: "OpenedModel",
    request: Request,
    regions: Sequence[RegionalPrompt] | None = None,
    weak_model: "OpenedModel | None" = None,
    conditions: ExtraConditioning | None = None,
    generator: Generators | None = None,
    embeds: PromptEmbeds | None = None,
    sampler: Sampler | None = None,
) -> ResolvedRequest:
    """Fill in what a request leaves open, from a model's defaults.

    Args:
        model: that will draw.
        request: its fields about loading (model, dtype, loras, ...) are passed over: the model is loaded.
        regions: in place of those that the request names, which are read from their files otherwise.
        weak_model: of autoguidance, opened.
        conditions: in place of those of the request.
        generator: in place of a seed; one per picture, or one for all.
        embeds: what the request names in place of texts.
        sampler: a function in place of the one that the request names.

    Raises:
        ValueError: names the field that cannot be followed.
        OSError: a mask that cannot be read.
    """
    request.check()
    texts, seeds = texts_and_seeds(request, generator)
    positive = dict.fromkeys(text for each in texts for text in (each.prompt, each.prompt_2) if text is not None)
    parts, fast = model.parts, in_few_steps(model, request, positive)
    own = defaults_for(model, request, positive)
    if regions is None:
        regions = [RegionalPrompt.from_file(file, prompt) for file, prompt in request.regions.items()]
    if conditions is None:
        conditions = ExtraConditioning.from_recipe(request.conditions)
    enlarged = parts.upscaler.config.factor if request.upscale and parts.upscaler is not None else 1
    factor = parts.latent_format.factor
    usual = conditions.pixels(factor) or (own.height, own.width)
    multiple = max(8, factor) * enlarged
    height, width = size_for(request, usual, enlarged, multiple)
    tile, overlap = tile_for(request, multiple)
    caching = caching_for(request.cache_options)
    if caching.on and tile is not None:
        raise ValueError("cache_options and tile_size exclude each other: tiles have features of their own; use one")
    if request.seamless is not None:
        coarsest = math.lcm(multiple, factor * enlarged * 2 ** (len(parts.unet.config.widths) - 1))
        for axis, name, value in (("x", "width", width), ("y", "height", height)):
            if axis in request.seamless:
                check_multiple(name, value, coarsest, f", which seamless={request.seamless!r} needs here")
    count = len(request.prompts) * request.num_images_per_prompt
    together = min(request.batch_size or count, count)
    check_memory(parts, model.device, count, together, (height, width), enlarged, model.vae_memory)
    _check_second_texts(model, request, embeds)
    defaults = GuidanceSettings(guidance_scale=own.guidance_scale, guidance_rescale=own.guidance_rescale)
    guidance = guidance_for(defaults, request.guidance_scale, request.guidance_rescale, request.guidance_options)
    sampling = sampling_for(own, request.sampler, request.schedule, request.sampler_options, request.schedule_options)
    brought = not fast and few_step_lora_of(model, request, positive) is not None
    if brought:  # the process was read for the model's own sampler, and recipes write down what the LoRA brought
        sampling = replace(sampling, own_sampler=parts.defaults.sampler)
    sampler_options, schedule_options = options_beyond(sampling, parts.defaults if brought else own)
    if sampler is None:
        look_up("sampler", sampling.sampler, SAMPLERS)
    else:
        name, options = function_name(sampler), dict(request.sampler_options)
        sampling = replace(sampling, sampler=name, sampler_options=options, function=sampler)
    guidance.check_sampler(sampling.sampler)
    _check_attention(request, guidance)
    steps = sampling.steps(parts.process, request.num_inference_steps, own.num_inference_steps)
    process = sampling.process(parts.process)
    latent_size = (parts.latent_format.channels, height // (factor * enlarged), width // (factor * enlarged))
    first_noise = FirstNoise.of(request, count, latent_size, generator is not None)
    decided = {
        **vars(texts[0]),
        "num_images_per_prompt": 1,
        "batch_size": together,
        "seed": seeds[0],
        **first_noise.recipe(0),
        "num_inference_steps": steps,
        "fast": fast,
        "guidance_scale": guidance.guidance_scale,
        "guidance_rescale": guidance.guidance_rescale,
        "guidance_options": guidance_options(guidance),
        "cache_options": changed_options(caching),
        "sampler": sampling.sampler,
        "schedule": sampling.schedule,
        "sampler_options": sampler_options,
        "schedule_options": schedule_options,
        "width": width,
        "height": height,
        "tile_overlap": None if tile is None else overlap,
        "vae_memory": model.vae_memory,
        "upscale": enlarged > 1,
        "offload": NONE,  # it changes no pixel, and is for the machine that draws
        "wildcards": None,
        "weak_model": "" if weak_model is None else weak_model.name,
        "regions": {region.file: region.prompt for region in regions},
        "conditions": conditions.recipe(),
        "clip_skip": _layers_left_out(model, request.clip_skip),
    }
    recipe = Recipe(**request.values() | decided | model.loaded(), version=ldm.__version__)
    wraps = "y" in (request.seamless or ""), "x" in (request.seamless or "")
    reader = reader_of(parts, model.engine, model.embeddings, recipe.prompt_syntax, recipe.clip_skip)
    if embeds is not None:
        if weak_model is not None:
            raise ValueError("weak_model reads prompts, not prompt_embeds; give texts")
        reader = embeds.reader(reader, parts, model.device)
    parse = cache(
        lambda each: parse_timeline(
            each.prompt, each.negative_prompt, steps, reader, regions, each.prompt_2, each.negative_prompt_2
        )
    )
    timelines = [parse(each) for each in texts]
    _warn_of_cost(timelines)
    return ResolvedRequest(
        recipe=recipe,
        texts=texts,
        seeds=seeds,
        guidance=guidance,
        sampling=sampling,
        caching=caching,
        process=process,
        grid=sampling.grid(process, steps),
        latent_size=latent_size,
        reader=reader,
        timelines=timelines,
        conditions=conditions,
        tiling=None if tile is None else Tiling(tile // (factor * enlarged), overlap // (factor * enlarged), wraps),
        regions=tuple(regions),
        weak_model=weak_model,
        generators=None if generator is None else one_each(generator, count),
        first_noise=first_noise,
        repeatable=all(given is None for given in (generator, conditions.concat, embeds, sampler))
        and all(region.file for region in regions),
    )


def check_settings(request: Request) -> None:
    """Refuse names and options that no model could follow, before the seconds that loading one takes.

    Raises:
        ValueError: names the option, its value and a possible one.
        FileNotFoundError: a LoRA or an embedding that is not there.
    """
    names = resolve(request.sampler, request.schedule)
    if names.sampler is not None:
        look_up("sampler", names.sampler, SAMPLERS)
        make_sampler(names.sampler, {**names.sampler_options, **request.sampler_options})
    if names.schedule in SCHEDULES:
        check_options(f"schedule {names.schedule!r}", SCHEDULES[names.schedule], request.schedule_options)
    scale, rescale = request.guidance_scale, request.guidance_rescale
    guidance = guidance_for(GuidanceSettings(), scale, rescale, request.guidance_options)
    _check_attention(request, guidance)
    if names.sampler is not None:
        guidance.check_sampler(names.sampler)
    caching_for(request.cache_options)
    for kind, files in (("loras", request.loras), ("embeddings", request.embeddings)):
        for file in files:
            if not Path(library.known_path(kind, file)).exists():
                raise FileNotFoundError(f"{file} does not exist")


def _check_attention(request: Request, guidance: GuidanceSettings) -> None:
    """Refuse guidance by disturbed attention beside merged tokens: its difference would be that of merging too."""
    for name in ("pag_scale", "seg_scale"):
        value = getattr(guidance, name)
        if value and request.token_merging > 0:
            raise ValueError(f"{name}={value:g} needs every token's attention; leave out token_merging, or {name}")


def _check_second_texts(model: "OpenedModel", request: Request, embeds: PromptEmbeds | None) -> None:
    """Refuse texts for a second text encoder that nothing would read."""
    for name in ("prompt_2", "negative_prompt_2"):
        if getattr(request, name) is None:
            continue
        if model.parts.text is None or len(model.parts.text.towers) < 2:
            raise ValueError(
                f"{name} is for models with two text encoders, as SDXL; {model.name} has not, leave it out"
            )
        if embeds is not None:
            raise ValueError(f"{name} and prompt_embeds were given; use one of them")


def _layers_left_out(model: "OpenedModel", clip_skip: int) -> int:
    """The layers left out beyond the model's own habit. Nobody reads SDXL's last layer: -1 and -2 are its default."""
    if clip_skip >= 0:
        return clip_skip
    text = model.parts.text
    own = 2 if text is not None and text.towers[0].penultimate else 1
    return max(-clip_skip - own, 0)


def _warn_of_cost(timelines: Sequence[PromptTimeline]) -> None:
    """Say what a prompt costs that is far longer, or of far more parts, than any that people write by hand."""
    chunks = max(timeline.chunks for timeline in timelines)
    parts = max(len(segment.parts) for timeline in timelines for segment in timeline.segments)
    if chunks >= _MANY:
        _log.warning(
            "the prompt fills %d chunks of the text encoder; each step attends to %d times as much", chunks, chunks
        )
    if parts >= _MANY:
        _log.warning("the prompt has %d parts; each step takes %d times as long as with one", parts, parts)


def fitting_batch_size(model: "OpenedModel", request: Request) -> int:
    """1 on a CPU, so that each picture's recipe alone gives its bytes again; on a GPU as many as its memory decodes.

    On a CPU four pictures of 256 px at a time take 0.8 of the time (docs/performance.md), and differ by rounding.
    """
    if model.device.type != "cuda":
        return 1
    recipe = resolve_request(model, replace(request, prompt=request.prompts[0])).recipe
    free = free_memory(model.device) or 0
    return max(1, free // (recipe.width * recipe.height * _BYTES_PER_PIXEL))


def alike(keys: Sequence[Any], most: int) -> Iterator[list[int]]:
    """Indices of equal keys together, at most so many, in the order in which keys first appear."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    for group in groups.values():
        yield from (group[start : start + most] for start in range(0, len(group), most))
