"""Makes the picture of docs/tasks.md with the shipped model: `python docs/task_pictures.py`."""

from pathlib import Path

from PIL import Image, ImageDraw

from ldm import LatentDiffusion

PICTURES = Path(__file__).parent / "pictures"
EDGE, GAP, CAPTION = 168, 8, 34
Tile = tuple[str, Image.Image]


def masked(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with what will be drawn anew in grey."""
    shown = picture.copy()
    shown.paste((160, 160, 160), mask=mask)
    return shown


def sheet(rows: list[list[Tile]]) -> Image.Image:
    """Rows of captioned pictures, each fitted into a square."""
    columns = max(map(len, rows))
    size = columns * (EDGE + GAP) + GAP, len(rows) * (EDGE + CAPTION + GAP) + GAP
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            left, top = GAP + x * (EDGE + GAP), GAP + y * (EDGE + CAPTION + GAP)
            small = picture.convert("RGB")
            small.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
            place = left + (EDGE - small.width) // 2, top + (EDGE - small.height) // 2
            page.paste(small, place)
            draw.rectangle((*place, place[0] + small.width - 1, place[1] + small.height - 1), outline=(225, 225, 225))
            draw.text((left, top + EDGE + 4), caption, "black", font_size=12)
    return page


def main() -> None:
    """Draw and write the sheet."""
    model = LatentDiffusion.from_pretrained("emoji")
    words = "a red apple, 3d style"
    apple = model(words, seed=1).images[0]
    hole = Image.new("L", apple.size, 0)
    ImageDraw.Draw(hole).ellipse((20, 0, 130, 90), fill=255)
    fox = model("a fox, noto style", seed=2).images[0]

    def edit(prompt: str, method: str = "difference") -> Image.Image:
        edited: Image.Image = model.edit(prompt, apple, source=words, method=method, seed=2).images[0]
        return edited

    def whole(strength: float) -> Tile:
        changed = model.img2img("a red heart, 3d style", apple, strength, seed=2).images[0]
        return f"a red heart, strength {strength:g}", changed

    pattern = model("strawberries, noto style", seed=3, seamless="xy").images[0]
    repeated = Image.new("RGB", (2 * pattern.width, 2 * pattern.height))
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        repeated.paste(pattern, (corner[0] * pattern.width, corner[1] * pattern.height))
    rows = [
        [(words, apple), whole(0.3), whole(0.6), whole(0.9)],
        [
            (words, apple),
            ("words: a green apple", edit("a green apple, 3d style")),
            ("words: noto style", edit("a red apple, noto style")),
            ("words: a red heart", edit("a red heart, 3d style")),
        ],
        [
            ("filled where it is grey", masked(apple, hole)),
            ("a red apple", model.inpaint(words, apple, hole, seed=3).images[0]),
            ("a green apple", model.inpaint("a green apple, 3d style", apple, hole, seed=3).images[0]),
            ("a pattern, four times", repeated),
        ],
        [
            ("a fox, noto style", fox),
            ("extended below", model.outpaint("a fox on a red ball, noto style", fox, bottom=128, seed=3).images[0]),
            ("upscaled twice", model.upscale("a fox, noto style", fox, by=2, strength=0.15, seed=3).images[0]),
            ("in two passes", model.hires("a fox, noto style", 2.0, 0.15, seed=2).images[0]),
        ],
    ]
    sheet(rows).save(PICTURES / "tasks.png")


if __name__ == "__main__":
    main()
