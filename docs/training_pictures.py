"""Draws loss curves and samples for docs/training/running.md.

`python docs/training_pictures.py runs/digits/ldm digits` reads `stats.jsonl` and `previews/` of a finished training and
writes `docs/pictures/training-NAME.png`.
Needs `ldm[bench]`.
"""

import sys
from pathlib import Path

from PIL import Image

from ldm.training.reports.logs import STATS, read_lines

PLACE = Path(__file__).parent / "pictures"
GRIDS = 4
CURVES = {"unet/unweighted": "training (mean of a line)", "validation/loss": "validation, average weights"}


def draw(run: Path, target: Path) -> None:
    """The squared error over samples seen, and below it previews from as many moments of the training.

    Args:
        run: output folder of a denoiser's training, with `loop.preview_every` set; `loop.validate_every` adds a curve.
        target: a PNG.
    """
    import matplotlib.pyplot as plt

    lines = read_lines(run / STATS)
    previews = sorted((run / "previews").glob("pictures-*.png"))
    chosen = [previews[(i + 1) * len(previews) // GRIDS - 1] for i in range(min(GRIDS, len(previews)))]
    figure, places = plt.subplot_mosaic(
        [["curve"] * len(chosen), [str(i) for i in range(len(chosen))]], figsize=(9, 5.6), height_ratios=[1.2, 1]
    )
    for key, label in CURVES.items():
        if points := [(line["samples"], line[key]) for line in lines if key in line]:
            places["curve"].plot(*zip(*points, strict=True), label=label, marker="." if "validation" in key else None)
    places["curve"].set(xlabel="samples seen", ylabel="squared error", yscale="log")
    places["curve"].legend()
    for number, path in enumerate(chosen):
        place = places[str(number)]
        place.imshow(Image.open(path), interpolation="nearest")
        place.set_title(f"{int(path.stem.split('-')[-1]):,} samples", fontsize=9)
        place.axis("off")
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    plt.close(figure)
    Image.open(target).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(target, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), PLACE / f"training-{sys.argv[2]}.png")
