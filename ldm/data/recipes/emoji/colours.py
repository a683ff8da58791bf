"""Which colour a picture has, in words: the nearest of 13 names in CIELAB."""

import numpy as np
from PIL import Image

_NAMES = {
    "red": [(214, 40, 40), (248, 49, 47), (190, 25, 49)],
    "orange": [(245, 130, 32), (255, 103, 35), (240, 155, 85), (255, 175, 110)],
    "yellow": [(252, 213, 63), (255, 204, 77), (240, 220, 60)],
    "green": [(60, 160, 70), (0, 210, 106), (119, 178, 85), (30, 100, 50)],
    "teal": [(0, 140, 140), (40, 170, 160)],
    "light blue": [(130, 200, 245), (85, 172, 238)],
    "blue": [(30, 90, 200), (0, 116, 186), (25, 50, 120)],
    "purple": [(130, 70, 180), (170, 110, 210)],
    "pink": [(245, 140, 180), (255, 110, 160)],
    "brown": [(130, 80, 50), (160, 100, 60), (90, 55, 40)],
    "grey": [(140, 140, 145), (180, 180, 185), (100, 100, 105)],
    "black": [(25, 25, 28), (50, 50, 54)],
    "white": [(250, 250, 250), (232, 232, 236)],
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255] (..., 3) to CIELAB (D65): L in [0, 100], a and b about [-100, 100]."""
    linear = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_WORDS = [name for name, shades in _NAMES.items() for _ in shades]
_SHADES = lab(np.array([shade for shades in _NAMES.values() for shade in shades]))


def colour_words(icon: Image.Image, least: float = 0.18) -> list[str]:
    """Colours that cover more than `least` of the picture, largest first, at most two.

    Args:
        icon: RGBA; only its opaque part counts.
        least: share of the opaque part, in [0, 1].
    """
    small = np.asarray(icon.resize((32, 32), Image.Resampling.BOX))
    opaque = small[small[..., 3] > 200][:, :3]
    if not len(opaque):
        return []
    distances = np.linalg.norm(lab(opaque)[:, None] - _SHADES[None], axis=-1)
    found: dict[str, int] = {}
    for index in distances.argmin(axis=1):
        found[_WORDS[index]] = found.get(_WORDS[index], 0) + 1
    shares = sorted(((count / 1024, word) for word, count in found.items()), reverse=True)
    return [word for share, word in shares if share > least][:2]
