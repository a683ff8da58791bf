"""Everything that decides the pixels of one picture, as its file carries it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ldm.engine.names import EAGER_NAME
from ldm.generation.request import Request
from ldm.generation.sampler_names import a1111_names

_RENAMED = {"asked": "load_options"}
"""Names that fields had in older pictures."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Request):
    """The request of one picture, with everything decided that a request may leave open.

    Attributes:
        width, height: pixels of the finished picture, upscaler included if `upscale`.
        dtype, device: what the networks ran in; other ones round differently.
        version: of `ldm`.
    """

    prompt: str = field()
    negative_prompt: str = field()
    seed: int = field()
    num_inference_steps: int = field()
    guidance_scale: float = field()
    guidance_rescale: float = field()
    sampler: str = field()
    schedule: str = field()
    width: int = field()
    height: int = field()
    model: str = field()
    dtype: str = field()
    device: str = field()
    version: str = field()

    def request(self) -> Request:
        """The request that repeats the picture."""
        return Request(**self.values())

    def to_json(self) -> str:
        """One line of JSON, fields in the order above: the same recipe gives the same bytes."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """The inverse of `to_json`; reads what older versions wrote, too.

        Args:
            text: of the picture's JSON.
            where: it stands (a file), for messages.

        Raises:
            ValueError: names the field and the file.
        """
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: its recipe is damaged ({error})") from None
        if isinstance(content, dict):
            content = {_RENAMED.get(name, name): value for name, value in content.items()}
            content = {"engine": EAGER_NAME, **content}  # there was no other one
            loaded_as = content.pop("load_options", {})  # of a single file; these are fields of their own now
            content |= loaded_as if isinstance(loaded_as, dict) else {"load_options": loaded_as}
        return cls.from_content(content, f"{where}: its recipe")

    def parameters(self) -> str:
        """The text that A1111's web UI writes under `parameters`, and that most tools read."""
        sampler, schedule = a1111_names(self.sampler, self.schedule)
        details = {
            "Steps": self.num_inference_steps,
            "Sampler": sampler,
            "Schedule type": schedule,
            "CFG scale": f"{self.guidance_scale:g}",
            **({"CFG rescale": f"{self.guidance_rescale:g}"} if self.guidance_rescale else {}),
            "Seed": self.seed,
            **self._variation(),
            "Size": f"{self.width}x{self.height}",
            **({"Clip skip": self.clip_skip + 1} if self.clip_skip else {}),
            **({"Tiling": True} if self.seamless == "xy" else {}),
            "Model": Path(self.model).name,
            "Version": f"ldm {self.version}",
        }
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        lines.append(", ".join(f"{name}: {value}" for name, value in details.items()))
        return "\n".join(lines)

    def _variation(self) -> dict[str, Any]:
        if not self.variation_strength:
            return {}
        return {"Variation seed": self.variation_seed, "Variation seed strength": f"{self.variation_strength:g}"}
