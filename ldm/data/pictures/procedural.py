"""Pictures from formulas: gradients, drawings, text, stripes, noise of many scales and fractals, without end."""

import math
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SMOOTH = 2  # drawings are made so many times larger and averaged, so that their edges are as smooth as rendered ones
_LETTERS = string.ascii_letters + string.digits + string.punctuation + "    "
Random = np.random.Generator


def procedural_picture(random: Random, size: int) -> np.ndarray:
    """A picture uint8 (size, size, 3) of a kind that `random` chooses."""
    kinds: tuple[Callable[[Random, int], np.ndarray], ...] = (gradient, shapes, text, stripes, clouds, fractal)
    return kinds[int(random.integers(len(kinds)))](random, size)


def gradient(random: Random, size: int) -> np.ndarray:
    """From one colour to another, along a line or around a point."""
    down, across = _grid(size)
    angle, turn = random.uniform(0, 2 * math.pi), random.uniform(0, 1, 2)
    if random.uniform() < 0.5:
        place = down * math.sin(angle) + across * math.cos(angle)
    else:
        place = np.hypot(down - turn[0], across - turn[1])
    return _coloured(_to_unit(place) ** random.uniform(0.5, 2), _colours(random, 2))


def shapes(random: Random, size: int) -> np.ndarray:
    """Polygons, ellipses, rectangles and lines, filled or as outlines, as in icons and line art."""
    canvas, pen = _canvas(random, size)
    edge = size * _SMOOTH
    for _ in range(int(random.integers(2, 9))):
        points = [tuple(point) for point in random.uniform(-0.1 * edge, 1.1 * edge, (int(random.integers(3, 7)), 2))]
        fill, line = _colour(random), _colour(random)
        width = int(random.integers(1, 5)) * _SMOOTH
        (x0, y0), (x1, y1) = points[:2]
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        match int(random.integers(5)):
            case 0:
                pen.polygon(points, fill=fill)
            case 1:
                pen.ellipse(box, fill=fill, outline=line, width=width)
            case 2:
                pen.rounded_rectangle(box, radius=random.uniform(0, 0.2) * edge, fill=fill)
            case 3:
                pen.line(points, fill=fill, width=width, joint="curve")
            case _:
                start, end = random.uniform(0, 360, 2).tolist()
                pen.arc(box, start, end, fill=line, width=width)
    return _finished(canvas, size)


def text(random: Random, size: int) -> np.ndarray:
    """Lines of random letters."""
    canvas, pen = _canvas(random, size)
    edge, top = size * _SMOOTH, 0.0
    colour = _colour(random)
    while top < edge:
        height = float(random.uniform(8, 28)) * _SMOOTH
        letters = "".join(random.choice(list(_LETTERS), int(2.5 * edge / height) + 1))
        pen.text(
            (random.uniform(-0.2, 0.2) * edge, top), letters, fill=colour, font=ImageFont.load_default(round(height))
        )
        top += 1.2 * height
    return _finished(canvas, size)


def stripes(random: Random, size: int) -> np.ndarray:
    """Stripes or a checkerboard at any angle, hard or as waves."""
    down, across = _grid(size)
    angle, period = random.uniform(0, math.pi), random.uniform(3, 32) / size
    along, beside = down * math.sin(angle) + across * math.cos(angle), across * math.sin(angle) - down * math.cos(angle)
    wave = np.sin(2 * math.pi * along / period)
    if random.uniform() < 0.5:
        wave = wave * np.sin(2 * math.pi * beside / period)
    return _coloured(np.clip(0.5 + 0.5 * wave * random.choice([1.0, 3.0, 12.0]), 0, 1), _colours(random, 2))


def clouds(random: Random, size: int) -> np.ndarray:
    """Noise of many scales (fractional Brownian motion): clouds, stone and grain, by how fast finer scales fade."""
    fading = random.uniform(0.8, 2.2)
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequencies[0, 0] = 1
    spectrum = np.fft.rfft2(random.standard_normal((size, size))) / frequencies**fading
    spectrum[0, 0] = 0
    return _coloured(_to_unit(np.fft.irfft2(spectrum, (size, size))), _colours(random, int(random.integers(2, 6))))


def fractal(random: Random, size: int) -> np.ndarray:
    """A part of a Julia set, coloured by how soon points escape."""
    down, across = _grid(size)
    angle, zoom = random.uniform(0, 2 * math.pi), 10 ** random.uniform(-1, 0.3)
    z = zoom * (across - 0.5 + 1j * (down - 0.5)) + complex(*random.uniform(-0.5, 0.5, 2))
    c = 0.7885 * np.exp(1j * angle)
    escape = np.zeros((size, size))
    for _ in range(24):
        inside = np.abs(z) < 4
        z = np.where(inside, z * z + c, z)
        escape += inside
    return _coloured(_to_unit(escape), _colours(random, int(random.integers(2, 6))))


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    down, across = np.mgrid[:size, :size] / size
    return down, across


def _to_unit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return np.zeros_like(values) if high <= low else (values - low) / (high - low)


def _colour(random: Random) -> tuple[int, int, int]:
    """Black and white more often than others, as pictures on screens have them."""
    draw = random.uniform()
    if draw < 0.12:
        return (0, 0, 0)
    if draw < 0.3:
        return (255, 255, 255)
    red, green, blue = random.integers(0, 256, 3).tolist()
    return (red, green, blue)


def _colours(random: Random, count: int) -> np.ndarray:
    return np.array([_colour(random) for _ in range(count)], dtype=float)


def _coloured(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Values in [0, 1] on a scale of colours (N, 3)."""
    places = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, places, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _canvas(random: Random, size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (size * _SMOOTH, size * _SMOOTH), _colour(random))
    return canvas, ImageDraw.Draw(canvas)


def _finished(canvas: Image.Image, size: int) -> np.ndarray:
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
