"""Methods of a model that take a picture: each makes a task of `ldm.tasks` and draws with it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

from torch import Tensor

from ldm.generation.callbacks import StepEnd
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import DrawStep
from ldm.generation.keywords import explain_keywords
from ldm.generation.opened_model import OpenedModel
from ldm.generation.regional_prompt import RegionalPrompt
from ldm.generation.result import Result
from ldm.generation.task import Task
from ldm.generation.texts import Generators
from ldm.naming import OptionValue
from ldm.networks.attention import AttentionHook
from ldm.pipeline.several import Pictures, draw_pictures
from ldm.tasks.edit_by_words import EditByWords
from ldm.tasks.hires import Hires
from ldm.tasks.img2img import Img2Img
from ldm.tasks.inpaint import Inpaint
from ldm.tasks.instruct import Instruct
from ldm.tasks.outpaint import Outpaint
from ldm.tasks.reconstruct import Reconstruct
from ldm.tasks.upscale import Upscale


class CallOptions(TypedDict, total=False):
    """The keywords of `LatentDiffusion.__call__` that go with every task; they are explained there."""

    negative_prompt: str | Sequence[str]
    prompt_2: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    num_inference_steps: int | None
    fast: bool | None
    guidance_scale: float | None
    guidance_rescale: float | None
    width: int | None
    height: int | None
    tile_size: int | None
    tile_overlap: int | None
    tile_jitter: bool
    seamless: str | None
    vae_memory: float | None
    seed: int | None
    variation_seed: int | None
    variation_strength: float
    generator: Generators | None
    num_images_per_prompt: int
    batch_size: int | None
    sampler: Any
    schedule: str | None
    output_type: str
    upscale: bool
    callback: Callable[[DrawStep], None] | None
    callback_on_step_end: StepEnd | None
    progress_bar: bool
    clip_skip: int
    prompt_syntax: str
    wildcards: str | Path | None
    regions: Sequence[RegionalPrompt]
    guidance_options: Mapping[str, Any] | None
    cache_options: Mapping[str, Any] | None
    token_merging: float
    sampler_options: Mapping[str, OptionValue] | None
    schedule_options: Mapping[str, OptionValue] | None
    weak_model: OpenedModel | None
    conditions: ExtraConditioning | None
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    pooled_prompt_embeds: Tensor | None
    negative_pooled_prompt_embeds: Tensor | None
    attention_hook: AttentionHook | None


class _Drawing(Protocol):
    """What draws a task: `LatentDiffusion`."""

    def __call__(
        self, prompt: str | Sequence[str] | None = None, *, task: Task | None, **options: Unpack[CallOptions]
    ) -> Result:
        """See `LatentDiffusion.__call__`."""


class PictureMethods:
    """Pictures in, pictures out, in diffusers' words: `model.img2img("a green apple", "apple.png").images[0]`.

    A picture may be a path, a Pillow picture, an array or a tensor, of any size; its mode, its alpha and its EXIF
    rotation are kept. A list of pictures is drawn one after the other, with one prompt for all or one each. All other
    keywords are those of a plain call.
    """

    @explain_keywords
    def img2img(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        strength: float = 0.8,
        steps_scale: bool = False,
        depth: Pictures | None = None,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Change a picture as a whole.

        Args:
            prompt: what it shall be.
            image: the picture.
            strength: 0 gives its own pixels back, 1 draws anew; the share of the schedule that is walked.
            steps_scale: take int(num_inference_steps * strength) steps, as diffusers does, in place of all.
            depth: the depth map, white is near, which a depth model needs.
            options: of a plain call; width and height scale the picture.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for a picture that is none.
        """
        task = partial(Img2Img, strength=strength, steps_scale=steps_scale)
        return draw_pictures(self, prompt, task, {"picture": image, "depth": depth}, options)

    @explain_keywords
    def inpaint(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        mask_image: Pictures,
        strength: float = 1.0,
        steps_scale: bool = False,
        soft: bool = False,
        crop: int | None = None,
        feather: int = 0,
        resample: int = 1,
        resample_jump: int = 1,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Draw a part of a picture anew, with any model; all other bytes stay.

        Args:
            prompt: what the picture shall be, with what is drawn.
            image: the picture.
            mask_image: white where to draw; of another size, it is scaled.
            strength: as of `img2img`, where the mask is white.
            steps_scale: as of `img2img`.
            soft: grey in the mask is the strength there.
            crop: work on so many pixels around the mask alone, in the model's size (diffusers' padding_mask_crop).
            feather: pixels within the mask over which the new fades in.
            resample: how often each step is taken, so that the new suits the rest better (RePaint).
            resample_jump: steps that are taken together before the noise is put back.
            options: of a plain call. Without a model for inpainting, `sampler` is by default `ddim` with eta 0.85.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for pictures that are none.
        """
        task = partial(
            Inpaint,
            strength=strength,
            steps_scale=steps_scale,
            soft=soft,
            crop=crop,
            feather=feather,
            resample=resample,
            resample_jump=resample_jump,
        )
        return draw_pictures(self, prompt, task, {"picture": image, "mask": mask_image}, options)

    @explain_keywords
    def outpaint(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        feather: int = 4,
        strength: float = 1.0,
        steps_scale: bool = False,
        resample: int = 1,
        resample_jump: int = 1,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Extend a picture on any sides; its bytes stay, in their place.

        Args:
            prompt: what the larger picture shall be.
            image: the picture.
            left: how many pixels to add there.
            top: likewise.
            right: likewise.
            bottom: likewise.
            feather: of them, over how many they fade into the picture.
            strength: as of `img2img`, of the new part, which is made of the colours of the picture's edge at first.
            steps_scale: as of `img2img`.
            resample: as of `inpaint`.
            resample_jump: as of `inpaint`.
            options: of a plain call, without width and height.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for a picture that is none.
        """
        task = partial(
            Outpaint,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            feather=feather,
            strength=strength,
            steps_scale=steps_scale,
            resample=resample,
            resample_jump=resample_jump,
        )
        return draw_pictures(self, prompt, task, {"picture": image}, options)

    @explain_keywords
    def edit(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        source: str,
        method: str = "difference",
        strength: float = 0.7,
        source_guidance_scale: float | None = None,
        average: int = 1,
        iterations: int = 3,
        local: float = 1.0,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Carry a picture from what it shows to something else; equal prompts give its very bytes.

        Args:
            prompt: what it shall show.
            image: the picture.
            source: what it shows.
            method: a key of `ldm.tasks.settings.EDIT_METHODS`.
            strength: where editing begins, as a share of the schedule.
            source_guidance_scale: of the source prompt; None is `guidance_scale`, and 1 for `ddim`.
            average: draws of noise that each step of `difference` averages.
            iterations: guesses at each step of `ddim`'s way up.
            local: change only the cells that hold this share of all change (`difference`); 1 is everywhere.
            options: of a plain call.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for a picture that is none.
        """
        task = partial(
            EditByWords,
            source=source,
            method=method,
            strength=strength,
            source_guidance_scale=source_guidance_scale,
            average=average,
            iterations=iterations,
            local=local,
        )
        return draw_pictures(self, prompt, task, {"picture": image}, options)

    @explain_keywords
    def instruct(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        image_guidance_scale: float = 1.5,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Change a picture as an instruction says, with an InstructPix2Pix model.

        Args:
            prompt: the instruction.
            image: the picture.
            image_guidance_scale: how closely to keep to it; 1 is as the model learned it.
            options: of a plain call.

        Raises:
            TypeError, ValueError, OSError: as a plain call, for a picture that is none, and for another kind of model.
        """
        task = partial(Instruct, image_guidance_scale=image_guidance_scale)
        return draw_pictures(self, prompt, task, {"picture": image}, options)

    @explain_keywords
    def upscale(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        by: int | None = None,
        strength: float | None = None,
        steps_scale: bool = False,
        residual: bool = False,
        consistent: bool = False,
        noise_level: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Result:
        """Enlarge a picture, with a model for upscaling or, by a second pass in tiles, with any other one.

        Args:
            prompt: what it shows; may be empty.
            image: the picture.
            by: how many times; None is 4 with models for upscaling, and 2.
            strength: how much the enlarged picture is changed, by models that are not for upscaling.
            steps_scale: as of `img2img`.
            residual: hold the noisy picture to the enlarged one, less and less (DemoFusion).
            consistent: correct the colours until the result, made small again, is the picture.
            noise_level: put into the picture for models for upscaling.
            options: of a plain call, without width and height.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for a picture that is none.
        """
        task = partial(
            Upscale,
            by=by,
            strength=strength,
            steps_scale=steps_scale,
            residual=residual,
            consistent=consistent,
            noise_level=noise_level,
        )
        return draw_pictures(self, prompt, task, {"picture": image}, options)

    @explain_keywords
    def reconstruct(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        image: Pictures,
        operator: str = "identity",
        mask_image: Pictures | None = None,
        noise_level: float = 0.0,
        method: str = "daps",
        **options: Unpack[CallOptions],
    ) -> Result:
        """Sample what a picture may have been before a damage that is known.

        Args:
            prompt: what it shows; may be empty.
            image: the damaged picture.
            operator: what it went through, in order: `blur=2`, `area-down=4`, `grey`, `identity`, `blur=2,area-down=4`.
            mask_image: white where pixels are missing, of the picture's size.
            noise_level: standard deviation of the noise that came last, of 255.
            method: a key of `ldm.tasks.reconstruct_settings.METHODS`.
            options: of a plain call, without sizes, sampler and schedule; of several samples (`num_images_per_prompt`)
                `ldm.tasks.reconstruct.mean_and_deviation` makes mean and deviation. By default 25 steps, no guidance.

        Raises:
            TypeError, ValueError, OSError: as a plain call, and for pictures that are none.
        """
        task = partial(Reconstruct, operator=operator, noise_level=noise_level, method=method)
        return draw_pictures(self, prompt, task, {"picture": image, "mask": mask_image}, options)

    @explain_keywords
    def hires(
        self: _Drawing,
        prompt: str | Sequence[str] | None,
        scale: float = 2.0,
        strength: float = 0.4,
        steps_scale: bool = False,
        residual: bool = False,
        enlarge: str = "picture",
        **options: Unpack[CallOptions],
    ) -> Result:
        """Generate in two passes: a picture `scale` times smaller, then its detail in tiles.

        Args:
            prompt: what to draw.
            scale: width and height of the finished picture over those of the first pass.
            strength: how much the second pass changes.
            steps_scale: as of `img2img`, of the second pass.
            residual: as of `upscale`.
            enlarge: what is enlarged in between: the decoded `picture`, or the `latent`, which needs more strength.
            options: of a plain call; width and height are those of the finished picture.

        Raises:
            TypeError, ValueError: as a plain call.
        """
        task = Hires(scale=scale, strength=strength, steps_scale=steps_scale, residual=residual, enlarge=enlarge)
        return self(prompt, task=task, **options)
