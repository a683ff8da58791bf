"""Train your own text-to-image model and draw with it.

from ldm import LatentDiffusion
LatentDiffusion.from_pretrained("emoji")("a red apple, 3d style").images[0].save("apple.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.generation.pipeline import LatentDiffusion

__version__ = "0.1.0"
__all__ = ["LatentDiffusion", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch with it, only when someone asks for it: `ldm --help` must not wait for it."""
    if name == "LatentDiffusion":
        from ldm.generation.pipeline import LatentDiffusion

        return LatentDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
