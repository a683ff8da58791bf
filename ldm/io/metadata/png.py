"""A picture's recipe inside its PNG: A1111's `parameters` text for other tools, and all of it as JSON under `ldm`."""

import io
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.generation.sampler_names import a1111_names

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pixels of one picture.

    width, height: pixels of the finished picture, upscaler included if `upscale`.
    model: as it was named to `from_pretrained`.
    dtype, device: what the networks ran in; other ones round differently.
    version: of `ldm`.
    clip_skip, prompt_syntax, guidance_options, sampler_options, schedule_options: as `LatentDiffusion` takes them.
    weak_model: of autoguidance, as it was named; empty for none.
    conditions: fields of `ldm.generation.conditions.ExtraConditioning`.
    loras, embeddings, regions: weights, words and prompts by file, as it was named.
    asked: of a single file, what its caller said it is; see `LatentDiffusion.from_single_file`.
    """

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    sampler: str
    schedule: str
    width: int
    height: int
    upscale: bool
    model: str
    dtype: str
    device: str
    version: str
    clip_skip: int = 0
    prompt_syntax: str = "plain"  # what recipes were read as before they said
    guidance_options: dict = field(default_factory=dict)
    sampler_options: dict = field(default_factory=dict)
    schedule_options: dict = field(default_factory=dict)
    weak_model: str = ""
    loras: dict = field(default_factory=dict)
    embeddings: dict = field(default_factory=dict)
    regions: dict = field(default_factory=dict)
    conditions: dict = field(default_factory=dict)
    load_options: dict = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON, fields in the order above: the same recipe gives the same bytes."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Recipe":
        """The inverse of `to_json`. Raises ValueError naming the field and `where` it stands (a file)."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: its recipe is damaged ({error})") from None
        names = {each.name: each.type for each in fields(cls)}
        needed = [each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING]
        if not isinstance(content, dict):
            raise ValueError(f"{where}: its recipe is {type(content).__name__}, not an object")
        for name in needed:
            if name not in content:
                raise ValueError(f"{where}: its recipe lacks {name!r}")
        for name, value in content.items():
            if name not in names:
                raise ValueError(
                    f"{where}: its recipe has the unknown field {name!r}; a newer version may have drawn it"
                )
            wanted = names[name]
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise ValueError(f"{where}: its recipe has {name}={value!r} where {wanted} belongs")
        return cls(**content)

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
            "Size": f"{self.width}x{self.height}",
            **({"Clip skip": self.clip_skip + 1} if self.clip_skip else {}),
            "Model": Path(self.model).name,
            "Version": f"ldm {self.version}",
        }
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        lines.append(", ".join(f"{name}: {value}" for name, value in details.items()))
        return "\n".join(lines)


def png_bytes(image: "Image", recipe: Recipe | None = None) -> bytes:
    """The picture as PNG with its recipe inside. The same pixels and recipe give the same bytes: no time is written."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if recipe is not None:
        # PNG's tEXt holds Latin-1 only; iTXt, which Pillow picks for us where needed, holds all of Unicode.
        info.add_text("parameters", recipe.parameters())
        info.add_itxt("ldm", recipe.to_json())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_texts(path: Path) -> dict[str, str]:
    """All text chunks of a PNG, by keyword. Raises FileNotFoundError or ValueError (not a picture), naming the file."""
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()  # text may stand behind the pixels
            texts: dict[str, Any] = getattr(image, "text", {})
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture; give a PNG that ldm has drawn") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); is it whole?") from None
    return {str(key): str(value) for key, value in texts.items()}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a PNG. Raises FileNotFoundError, or ValueError if the file holds none or a damaged one."""
    texts = read_texts(path)
    if "ldm" not in texts:
        raise ValueError(f"{path} carries no ldm recipe; only pictures drawn by ldm can be repeated")
    return Recipe.from_json(texts["ldm"], str(path))
