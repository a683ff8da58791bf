"""Draws the README's picture with the shipped model: `python docs/pictures.py`."""

from pathlib import Path

from PIL import Image, ImageDraw

from ldm import LatentDiffusion

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
    "a woman with dark skin, emojione style",
    "a strawberry, emojione style",
    "three oranges on a pink background",
]
COLUMNS, EDGE, LINE = 4, 192, 18


def main() -> None:
    """Write docs/pictures/emoji.png: one picture a prompt, seed 0, its prompt below."""
    pictures = LatentDiffusion.from_pretrained("emoji")(PROMPTS, seed=0).images
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * EDGE, rows * (EDGE + LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        row, column = divmod(number, COLUMNS)
        corner = column * EDGE, row * (EDGE + LINE)
        sheet.paste(picture.resize((EDGE, EDGE), Image.Resampling.LANCZOS), corner)
        draw.text((corner[0] + 4, corner[1] + EDGE + 3), prompt, fill="black")
    sheet.save(Path(__file__).parent / "pictures" / "emoji.png")


if __name__ == "__main__":
    main()
