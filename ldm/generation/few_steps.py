"""Which weights a request is drawn with, the full ones or those for few steps, and what it then leaves to the model."""

from ldm.families.parts import Defaults, ModelParts
from ldm.generation.request import Request


def in_few_steps(parts: ModelParts, request: Request) -> bool:
    """Whether a model draws with its weights for few steps.

    They are its default if it has them and says so; then no setting of the full model must be given.

    Raises:
        ValueError: it was requested of a model that has none.
    """
    if request.fast is not None:
        if request.fast and parts.few_steps is None:
            raise ValueError("fast=True needs a model with weights for few steps, and this one has none; leave it out")
        return request.fast
    of_the_full_model = (
        *(request.num_inference_steps, request.guidance_scale, request.guidance_rescale),
        *(request.sampler, request.schedule),
    )
    given = request.negative_prompt or request.guidance_options or request.sampler_options or request.schedule_options
    default = parts.few_steps is not None and parts.few_steps.by_default
    return default and not given and all(each is None for each in of_the_full_model)


def defaults_for(parts: ModelParts, request: Request) -> Defaults:
    """What a request leaves to the model: the defaults of its full weights, or of those for few steps.

    Raises:
        ValueError: as `in_few_steps`.
    """
    fast = in_few_steps(parts, request)
    return parts.few_steps.defaults(parts.defaults) if fast and parts.few_steps is not None else parts.defaults


def steps_for(parts: ModelParts, request: Request) -> int:
    """How many steps a request takes, those of written schedules and of tasks apart."""
    return request.num_inference_steps or defaults_for(parts, request).num_inference_steps
