"""Train your own text-to-image model and draw with it.

from ldm import LatentDiffusion
LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0].save("apple.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.generation.conditions import ExtraConditioning
    from ldm.generation.regional_prompt import RegionalPrompt
    from ldm.generation.request import Request
    from ldm.generation.result import Result
    from ldm.pipeline.pipeline import LatentDiffusion
    from ldm.tasks.restorer import Restorer

__version__ = "0.1.0"
__all__ = ["ExtraConditioning", "LatentDiffusion", "RegionalPrompt", "Request", "Restorer", "Result", "__version__"]

_HOMES = {
    "ExtraConditioning": "ldm.generation.conditions",
    "LatentDiffusion": "ldm.pipeline.pipeline",
    "RegionalPrompt": "ldm.generation.regional_prompt",
    "Request": "ldm.generation.request",
    "Restorer": "ldm.tasks.restorer",
    "Result": "ldm.generation.result",
}


def __getattr__(name: str) -> Any:
    """Import what is used, and torch with it, only then: `ldm --help` must not wait for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
