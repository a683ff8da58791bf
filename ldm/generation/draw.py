"""One drawing: a generator of steps over a resolved request, which tasks, previews and progress bars sit on."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from conditioning.bundle import Conditioning
from conditioning.prompt.encoder import PromptEncoder
from ldm.denoiser import ConditionalDenoiser, Denoiser, NetworkDenoiser
from ldm.engine.engine import Engine
from ldm.engine.placement import send
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.prompt_timeline import parse_timeline
from ldm.generation.reader import Reader, reader_of
from ldm.generation.resolve import ResolvedRequest, alike
from ldm.generation.result import check_finite
from ldm.generation.timeline_denoiser import timeline_denoiser
from ldm.generation.within_memory import WithinMemory
from ldm.guidance import GuidanceSettings, TiledDenoiser
from ldm.networks.attention import AttentionHook
from ldm.networks.feature_cache import FeatureCache
from ldm.networks.token_merging import TokenMerging
from ldm.noise import NoiseSource
from ldm.samplers import Step

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel
    from ldm.io.folder.load import ModelParts

Wrap = Callable[[Denoiser, "Walk"], Denoiser]
"""(the denoiser of some pictures, what is known of them) -> what the sampler calls in its place."""

Encode = Callable[[str, int | None, bool], Conditioning]
"""(text, chunks to pad to, whether it is negative) -> its conditioning, batch 1; each is computed once."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a drawing begins, other than at noise.

    Attributes:
        latents: x `(B, C, h, w)` of all pictures, in the process's coordinates, at the time `grid[index]`; or a
            function that makes the x `(b, C, h, w)` of some of them from their `Walk`.
        index: how many steps are left out.
    """

    latents: "Tensor | Callable[[Walk], Tensor]"
    index: int = 0

    def x(self, walk: "Walk") -> Tensor:
        """The x of some pictures, fp32, where their noise is."""
        made = self.latents[list(walk.rows)] if isinstance(self.latents, Tensor) else self.latents(walk)
        return made.to(walk.noise.device, torch.float32)


@dataclass(frozen=True, eq=False)
class Walk:
    """What a start and a wrap may know of pictures that go through the network together.

    Attributes:
        rows: the numbers of these b pictures in the drawing.
        noise: the first noise `(b, C, h, w)`, of variance 1, varied where that was requested; a plain drawing starts
            from it.
        denoiser_of: prompts and negative prompts, one each per picture, and settings of guidance -> another denoiser
            of the same pictures. Prompts must have one form, and no LoRA tags.
    """

    rows: Sequence[int]
    noise: Tensor
    denoiser_of: "Callable[[Sequence[str], Sequence[str], GuidanceSettings], Denoiser]" = field(repr=False)


@dataclass(frozen=True, eq=False)
class DrawStep(Step):
    """One finished step of pictures that go through the network together; x and prediction are theirs.

    Attributes:
        timestep: the time at the step's beginning in the units that the network reads, as diffusers counts.
        rows: the numbers of these pictures in the drawing.
        look: turns latents into small pictures, for `preview`.
    """

    timestep: float
    rows: tuple[int, ...]
    look: Callable[[Tensor], Tensor] = field(repr=False)

    @cached_property
    def preview(self) -> Tensor:
        """A preview of the predicted picture: (B, 3, h, w) in [0, 1], see `small_pictures`. Computed on demand."""
        return self.look(self.prediction.x0)


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures that go through the network together.

    Attributes:
        parts: networks, which may have weights of their own for these pictures.
        encode: reads their texts.
        rows: their numbers in the drawing.
        chunks: that texts are padded to; None is what each fills.
        pixels: height and width of what is denoised.
        engine: what runs the network.
        hook: computes its attention, see `NetworkDenoiser`.
        cache: of this walk's deep features.
        merging: of tokens in its self-attention.
    """

    parts: "ModelParts"
    encode: Encode
    rows: Sequence[int]
    chunks: int | None
    resolved: ResolvedRequest
    conditions: ExtraConditioning
    pixels: tuple[int, int]
    device: torch.device
    engine: Engine
    hook: AttentionHook | None = None
    cache: FeatureCache | None = None
    merging: TokenMerging | None = None

    def condition(self, texts: Sequence[str], negative: bool = False) -> Conditioning:
        """One text per picture -> everything that the network is conditioned on."""
        read = Conditioning.cat([self.encode(text, self.chunks, negative) for text in texts])
        joined = self.conditions.join(read, self.parts.unet.config, self.rows, self.pixels, negative)
        return send(joined, self.device)

    def denoiser(self, conditioning: Conditioning) -> ConditionalDenoiser:
        """The network under a conditioning of these pictures, in tiles where the request has some."""
        process, prediction_type = self.resolved.process, self.parts.prediction_type
        whole = NetworkDenoiser(
            *(self.parts.unet, process, prediction_type, conditioning),
            engine=self.engine,
            hook=self.hook,
            cache=self.cache,
            merging=self.merging,
        )
        tiling = self.resolved.tiling
        return whole if tiling is None else TiledDenoiser(whole, tiling, self.resolved.recipe.tile_jitter)

    def denoiser_of(self, texts: Sequence[str]) -> ConditionalDenoiser:
        """The network under one text per picture."""
        return self.denoiser(self.condition(texts))


def draw(
    model: "OpenedModel",
    resolved: ResolvedRequest,
    start: Start | None = None,
    wrap: Wrap | None = None,
    conditions: ExtraConditioning | None = None,
    hook: AttentionHook | None = None,
) -> Generator[DrawStep, Tensor | None, Tensor]:
    """Walk from noise, or from `start`, to the latents of all pictures, a step at a time.

    Pictures whose prompts have the same form go through the network together; different ones follow one another. The
    model is left as it is, however far the generator is run. Grad mode is the caller's.

    A start at index 0 from `process.initial(noise, grid[0])` draws what no start draws. Going on from the x of step k
    at index k + 1 gives the picture of the uninterrupted run for samplers that take one step at a time and draw no
    noise (`ddim`, `euler`, `heun`). Samplers that remember earlier steps begin with an empty memory there, and so does
    the momentum of APG; samplers that draw noise draw other noise than the uninterrupted run.

    Latents that are sent to the generator after a step take the place of the step's x: the sampler begins anew at the
    next time, with an empty memory; noise and guidance go on as they were.

    Args:
        model: whose networks draw.
        resolved: what to draw.
        start: latents, and the step to begin with.
        wrap: puts something around the denoiser that the sampler calls, e.g. for masks or measurements.
        conditions: in place of the resolved request's.
        hook: computes every attention of the model's denoising network, see `NetworkDenoiser`.

    Yields:
        Each finished step.

    Returns:
        Denoised latents (B, C, h, w), fp32.

    Raises:
        ValueError: latents, conditions or prompts that do not fit the model.
        NonFiniteError: the network gave NaN or infinity.
    """
    conditions = resolved.conditions if conditions is None else conditions
    count, size = len(resolved.prompts), resolved.latent_size
    _check(start, (count, *size), len(resolved.grid) - 1)
    if hook is not None and resolved.caching.on:
        raise ValueError("cache_options skip attention that a hook has to see; leave out one of them")
    ratio = resolved.recipe.token_merging
    if hook is not None and ratio > 0:
        raise ValueError(f"token_merging={ratio} and attention_hook both compute attention; leave out one of them")
    conditions.check(model.parts.unet.config, count, size[1:])
    timelines = resolved.timelines
    factor = model.parts.latent_format.factor
    everyone = Batch(
        parts=model.parts,
        encode=_encoder(resolved.reader),
        rows=range(count),
        chunks=None,
        resolved=resolved,
        conditions=conditions,
        pixels=(size[1] * factor, size[2] * factor),
        device=model.device,
        engine=WithinMemory(model.engine, model.device, model.make_room),
        hook=hook,
        merging=TokenMerging(ratio) if ratio > 0 else None,
    )
    weak = _weak(everyone, model, resolved.weak_model)
    latents = torch.empty(count, *size, device=model.device)
    for rows in alike([timeline.form for timeline in timelines], resolved.batch_size):
        batch = replace(everyone, rows=rows, chunks=timelines[rows[0]].chunks)
        if resolved.caching.on:
            batch = replace(batch, cache=FeatureCache(resolved.caching))
        weights = {tag.name: tag.weights for tag in timelines[rows[0]].loras}
        if weights or resolved.recipe.fast:
            parts = model.parts_with_loras(weights, bool(resolved.recipe.fast))
            batch = replace(batch, parts=parts, encode=_encoder(_with_weights_of(resolved.reader, parts, model.engine)))
        source = _noise(batch)
        walk = Walk(rows, resolved.first_noise(source(), rows), partial(_denoiser_of, batch))
        x = resolved.process.initial(walk.noise, resolved.grid[0]) if start is None else start.x(walk)
        index = 0 if start is None else start.index
        if index == len(resolved.grid) - 1:  # nothing is left to do, so no text is read either
            latents[rows] = x
            continue
        own = [timelines[row] for row in rows]
        worse = None if weak is None else replace(weak, rows=rows).denoiser_of
        denoise = timeline_denoiser(own, batch, resolved.guidance, resolved.grid, resolved.regions, worse)
        denoise = denoise if wrap is None else wrap(denoise, walk)
        latents[rows] = yield from _sample(batch, denoise, x, index, source, partial(small_pictures, model))
    return latents


@torch.inference_mode()
def small_pictures(model: "OpenedModel", latents: Tensor) -> Tensor:
    """Denoiser's latents (B, C, h, w) -> pictures (B, 3, h, w) in [0, 1].

    By the model's TAESD for previews if it has one, then in full size; else by the preview matrix of the latent format
    where it has one, else decoded and made small.
    """
    latent_format, tiny = model.parts.latent_format, model.preview_autoencoder
    if tiny is not None:
        return (tiny.decode(latents.float()) / 2 + 0.5).clamp(0, 1)
    if latent_format.preview is not None:
        return latent_format.to_rgb(latents)
    return F.adaptive_avg_pool2d(model.decode(latents, upscale=False), (latents.shape[2], latents.shape[3]))


def _noise(batch: Batch) -> NoiseSource:
    """The noise of a batch's pictures, from their seeds or generators."""
    resolved, size = batch.resolved, batch.resolved.latent_size
    if resolved.generators is None:
        return NoiseSource([resolved.seeds[row] for row in batch.rows], size, batch.device)
    return NoiseSource.from_generators([resolved.generators[row] for row in batch.rows], size, batch.device)


def _denoiser_of(
    batch: Batch, prompts: Sequence[str], negatives: Sequence[str], guidance: GuidanceSettings
) -> Denoiser:
    """See `Walk.denoiser_of`."""
    steps, reader = len(batch.resolved.grid) - 1, batch.resolved.reader
    timelines = [parse_timeline(*texts, steps, reader) for texts in zip(prompts, negatives, strict=True)]
    if len({timeline.form for timeline in timelines}) != 1 or timelines[0].loras:
        raise ValueError(f"{prompts[0]!r} stands for other prompts in this task, which needs one form and no LoRA tags")
    return timeline_denoiser(timelines, replace(batch, chunks=timelines[0].chunks), guidance, batch.resolved.grid)


def _sample(
    batch: Batch,
    denoise: Denoiser,
    x: Tensor,
    index: int,
    noise: NoiseSource,
    look: Callable[[Tensor], Tensor],
) -> Generator[DrawStep, Tensor | None, Tensor]:
    """The sampler's steps, numbered from the beginning of the whole grid, and then the last x."""
    resolved, rows, grid = batch.resolved, batch.rows, batch.resolved.grid
    sampler, timestep = resolved.sampling.make(), resolved.process.model_time
    while index < len(grid) - 1:
        begun, changed = grid[index].item(), None
        for step in sampler(denoise, x, grid[index:], noise):
            x = step.x
            at = {**vars(step), "index": step.index + index, "total": step.total + index}
            changed = yield DrawStep(**at, timestep=timestep(begun).item(), rows=tuple(rows), look=look)
            begun = step.t
            if changed is not None:
                if step.total != len(grid) - 1 - index:
                    raise ValueError(f"sampler {resolved.sampling.sampler!r} adds steps; its latents cannot be changed")
                x, index = _in_place_of(x, changed), index + step.index + 1
                if batch.cache is not None:
                    batch.cache.forget()
                break
        if changed is None:
            break
    check_finite(x, "U-Net")
    return x


def _in_place_of(x: Tensor, changed: Tensor) -> Tensor:
    if changed.shape != x.shape:
        raise ValueError(f"changed latents are {tuple(changed.shape)}; this step has {tuple(x.shape)}")
    return changed.to(x, copy=True)


def _check(start: Start | None, shape: tuple[int, ...], steps: int) -> None:
    if start is None:
        return
    if isinstance(start.latents, Tensor) and tuple(start.latents.shape) != shape:
        raise ValueError(f"latents are {tuple(start.latents.shape)}; this call needs {shape}")
    if not 0 <= start.index <= steps:
        raise ValueError(f"index={start.index} is no step to begin with; use 0 to {steps}")


def _encoder(reader: Reader) -> Encode:
    """Each text is read alone and once: what a picture is conditioned on depends on no other picture."""
    return cache(lambda text, chunks, negative: reader.encode([text], chunks, negative))


def _with_weights_of(reader: Reader, parts: "ModelParts", engine: Engine) -> Reader:
    if not isinstance(reader, PromptEncoder) or parts.text is None:
        return reader
    return reader.with_text(engine.view(parts.text))


def _weak(everyone: Batch, model: "OpenedModel", weak: "OpenedModel | None") -> Batch | None:
    """The batch of the worse model of autoguidance, which reads the same texts with its own text encoder."""
    if weak is None:
        return None
    if weak.parts.process != model.parts.process:
        raise ValueError("weak_model was trained on another noise schedule; autoguidance needs the same")
    if weak.parts.unet.config.out_channels != model.parts.unet.config.out_channels:
        raise ValueError("weak_model has latents of other channels; autoguidance needs the same autoencoder")
    everyone.conditions.check(weak.parts.unet.config, len(everyone.rows), everyone.resolved.latent_size[1:])
    recipe = everyone.resolved.recipe
    encode = _encoder(reader_of(weak.parts, weak.engine, weak.embeddings, recipe.prompt_syntax, recipe.clip_skip))
    engine = WithinMemory(weak.engine, weak.device, weak.make_room)
    plain = replace(everyone, hook=None, merging=None)
    return replace(plain, parts=weak.parts, encode=encode, device=weak.device, engine=engine)
