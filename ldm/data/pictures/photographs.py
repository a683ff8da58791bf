"""The freely licensed photographs that scikit-image and scikit-learn carry, for networks that will see photographs."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

_PLACES = {"skimage": "data", "sklearn": "datasets/images"}
PHOTOGRAPHS = {
    "train": {
        "skimage": {
            "astronaut.png": "NASA, public domain",
            "brick.png": "cc0textures.com, CC0",
            "camera.png": "Lav Varshney, CC0",
            "grass.png": "cc0textures.com, CC0",
            "gravel.png": "cc0textures.com, CC0",
            "hubble_deep_field.jpg": "NASA, public domain",
            "microaneurysms.png": "Andreas Maier, CC0",
            "retina.jpg": "Mikael Häggström, CC0",
            "rocket.jpg": "SpaceX, public domain",
        },
        "sklearn": {"china.jpg": "danielbuechele, CC BY 2.0", "flower.jpg": "vultilion, CC BY 2.0"},
    },
    "held_out": {
        "skimage": {
            "chelsea.png": "Stéfan van der Walt, CC0",
            "coffee.png": "Rachel Michetti, CC0",
        }
    },
}
"""Split -> package -> file -> author and licence; those of unclear licence are left out."""


@cache
def photographs(split: str = "train") -> tuple[np.ndarray, ...]:
    """The photographs of a split whose packages are installed: uint8 (H, W, 3) each, in a fixed order."""
    found = []
    for package, files in PHOTOGRAPHS[split].items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name in files:
            with Image.open(Path(spec.origin).parent / _PLACES[package] / name) as picture:
                found.append(np.asarray(picture.convert("RGB")))
    return tuple(found)
