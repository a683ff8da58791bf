"""Which weights a request is drawn with, the full ones or those for few steps, and what it then leaves to the model."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ldm.adapters.lora.tags import lora_tags
from ldm.families.few_step_loras import FewStepLora
from ldm.families.parts import Defaults
from ldm.generation.request import Request

if TYPE_CHECKING:
    from ldm.generation.adapted_model import AdaptedModel


def in_few_steps(model: "AdaptedModel", request: Request, prompts: Iterable[str] | None = None) -> bool:
    """Whether a model draws with its weights for few steps.

    They are its default if it has them and says so; then no setting of the full model must be given, nor a LoRA that
    is for few steps itself.

    Args:
        model: that draws.
        request: what.
        prompts: as `few_step_lora_of`.

    Raises:
        ValueError: it was requested of a model that has none.
    """
    few_steps = model.parts.few_steps
    if request.fast is not None:
        if request.fast and few_steps is None:
            raise ValueError("fast=True needs a model with weights for few steps, and this one has none; leave it out")
        return request.fast
    of_the_full_model = (
        *(request.num_inference_steps, request.guidance_scale, request.guidance_rescale),
        *(request.sampler, request.schedule),
    )
    given = request.negative_prompt or request.guidance_options or request.sampler_options or request.schedule_options
    default = few_steps is not None and few_steps.by_default
    left_open = default and not given and all(each is None for each in of_the_full_model)
    return left_open and few_step_lora_of(model, request, prompts) is None


def few_step_lora_of(
    model: "AdaptedModel", request: Request, prompts: Iterable[str] | None = None
) -> FewStepLora | None:
    """The LoRA for few steps that a request is drawn with: a loaded one, or one of a tag; None without any.

    LoRAs of tags that are in the library are loaded, as a drawing does.

    Args:
        model: that draws.
        request: what.
        prompts: its texts, with wildcards filled in; by default as they are written.
    """
    tags = [tag for text in (request.prompts if prompts is None else prompts) for tag in lora_tags(text)[1]]
    model.find_loras([tag.name for tag in tags], request.allow_unmatched)
    if not model.few_step_loras:
        return None
    on = [name for name, weight in model.loras.weights.items() if _acts(weight)]
    tagged = {tag.name: _acts(tag.weights) for tag in tags}
    names = [name for name in on if tagged.get(name, True)] + [name for name, acts in tagged.items() if acts]
    return next((model.few_step_loras[name] for name in names if name in model.few_step_loras), None)


def _acts(weight: float | Mapping[str, float]) -> bool:
    return any(weight.values()) if isinstance(weight, Mapping) else weight != 0


def defaults_for(model: "AdaptedModel", request: Request, prompts: Iterable[str] | None = None) -> Defaults:
    """What a request leaves to the model: the defaults of its full weights, or of those for few steps.

    Args:
        model: that draws.
        request: what.
        prompts: as `few_step_lora_of`.

    Raises:
        ValueError: as `in_few_steps`.
    """
    parts = model.parts
    if in_few_steps(model, request, prompts) and parts.few_steps is not None:
        return parts.few_steps.defaults(parts.defaults)
    lora = few_step_lora_of(model, request, prompts)
    return parts.defaults if lora is None else lora.defaults(parts.defaults)


def steps_for(model: "AdaptedModel", request: Request) -> int:
    """How many steps a request takes, those of written schedules and of tasks apart."""
    return request.num_inference_steps or defaults_for(model, request).num_inference_steps
