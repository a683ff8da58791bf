"""Makes the README's pictures with the shipped model: `python docs/pictures.py`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ldm import LatentDiffusion, RegionalPrompt, Request

PROMPTS = [
    "a smiling face, noto style",
    "a red apple, 3d style",
    "a red heart, twemoji style",
    "a car, 3d style",
    "an umbrella, noto style",
    "a tree, noto style",
    "a guitar, twemoji style",
    "a fox, noto style",
    "a yellow star on a blue background",
    "a woman with dark skin, noto style",
    "a strawberry, twemoji style",
    "three oranges on a pink background",
    "a red apple and a banana",
    "an apple left of a car, 3d style",
    "a fox and an umbrella, noto style",
    "a cat above a house, flat fluent style",
]
STYLES = ("3d", "flat fluent", "noto", "twemoji", "outlined")
MOMENTS = (0, 1, 2, 4, 6, 8, 11, 15)
COLUMNS, EDGE, LINE = 4, 192, 18
FOLDER = Path(__file__).parent / "pictures"

Row = tuple[str, list[Image.Image], Sequence[str]]
"""What the row shows, its pictures, and a word below each."""


def main() -> None:
    """Write docs/pictures/emoji.png, one picture a prompt, and docs/pictures/ways.png, what else can be done."""
    model = LatentDiffusion.from_pretrained("emoji")
    _prompts(model).save(FOLDER / "emoji.png")
    _sheet([_walk(model), _styles(model), _edits(model), _regions(model)]).save(FOLDER / "ways.png")


def _prompts(model: LatentDiffusion) -> Image.Image:
    """One picture a prompt, seed 0, its prompt below."""
    pictures = model(PROMPTS, seed=0).images
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * EDGE, rows * (EDGE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        row, column = divmod(number, COLUMNS)
        corner = column * EDGE, row * (EDGE + LINE)
        sheet.paste(picture.resize((EDGE, EDGE), Image.Resampling.LANCZOS), corner)
        draw.text((corner[0] + 4, corner[1] + EDGE + 3), prompt, fill="black")
    return sheet


def _walk(model: LatentDiffusion) -> Row:
    """What the denoiser believes at some steps of one drawing."""
    request = Request(prompt="a red apple, 3d style", seed=0, num_inference_steps=16)
    pictures = [_picture(model, step.prediction.x0) for step in model.steps(request) if step.index in MOMENTS]
    return "a red apple, 3d style: the picture that each step believes in", pictures, [f"{i + 1}" for i in MOMENTS]


def _styles(model: LatentDiffusion) -> Row:
    prompts = [f"a fox, {style} style" for style in STYLES]
    return "a fox, in every style that the shipped model knows", model(prompts, seed=0).images, STYLES


def _edits(model: LatentDiffusion) -> Row:
    """One seed, another word after a share of the steps."""
    shares = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    prompts = [f"[a green apple, 3d style:a red apple, 3d style:{share}]" for share in shares]
    pictures = [model(prompt, seed=3).images[0] for prompt in prompts]
    return "[a green apple:a red apple:SHARE], one seed", pictures, [f"{share:g}" for share in shares]


def _regions(model: LatentDiffusion) -> Row:
    """A prompt that holds in a part of the picture, and less and less of it."""
    pictures, names = [], []
    for share in (0.0, 0.25, 0.5, 0.75):
        mask = torch.zeros(64, 64)
        mask[:, round(64 * (1 - share)) :] = 1
        regions = [RegionalPrompt("a blue background", mask)] if share else []
        pictures.append(Image.fromarray((mask * 255).byte().numpy()).convert("RGB"))
        pictures.append(model("a banana on a pink background", seed=1, regions=regions).images[0])
        names += ["mask", f"{share:g}"]
    return "a banana on a pink background, with another prompt where the mask is white", pictures, names


@torch.inference_mode()
def _picture(model: LatentDiffusion, latents: torch.Tensor) -> Image.Image:
    pixels = (model.decode(latents)[0] * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def _sheet(rows: Sequence[Row]) -> Image.Image:
    edge = EDGE // 2
    width = max(len(pictures) for _, pictures, _ in rows) * edge
    sheet = Image.new("RGB", (width, len(rows) * (edge + 2 * LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, pictures, names) in enumerate(rows):
        top = number * (edge + 2 * LINE)
        draw.text((4, top + 4), title, fill="black")
        for column, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            sheet.paste(picture.resize((edge, edge), Image.Resampling.LANCZOS), (column * edge, top + LINE))
            corners = column * edge, top + LINE, (column + 1) * edge - 1, top + LINE + edge - 1
            draw.rectangle(corners, outline="lightgrey")
            draw.text((column * edge + 4, top + LINE + edge + 1), name, fill="grey")
    return sheet


if __name__ == "__main__":
    main()
