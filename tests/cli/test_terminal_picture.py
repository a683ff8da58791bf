"""Pictures in terminals: what is sent is decoded as the terminals do, and compared pixel by pixel."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ldm.cli.terminal_picture import PROTOCOLS, picture_text, protocol_of


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)


def few_colours(width: int, height: int) -> Image.Image:
    """Colours whose levels are whole percents, as sixels have them."""
    levels = np.random.default_rng(1).choice([0, 51, 102, 204, 255], (7, 3)).astype(np.uint8)
    return Image.fromarray(levels[np.random.default_rng(2).integers(0, 7, (height, width))])


@pytest.mark.parametrize("size", [(1, 1), (20, 15), (90, 120)])
def test_kitty_gets_a_png_in_pieces(size: tuple[int, int]) -> None:
    image = noise(*size)
    text = picture_text(image, "kitty")
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) + "\n" == text
    first = dict(entry.split("=") for entry in commands[0][0].split(","))
    assert (first["a"], first["f"], first["q"]) == ("T", "100", "2")
    assert int(first["c"]) == -(-image.width // 10)
    more = [re.search(r"m=(\d)", keys)[1] for keys, _ in commands]  # type: ignore[index]
    assert more == ["1"] * (len(commands) - 1) + ["0"]
    assert all(len(data) == 4096 for _, data in commands[:-1]) and len(commands[-1][1]) <= 4096
    shown = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in commands))))
    assert np.array_equal(np.asarray(shown), np.asarray(image))
    assert (size == (90, 120)) == (len(commands) > 1)


def test_iterm_gets_a_png_and_its_size() -> None:
    image = noise(1000, 30)
    found = re.fullmatch(r"\x1b\]1337;File=(.*):(.*)\x07\n", picture_text(image, "iterm"))
    assert found is not None
    data = base64.b64decode(found[2])
    assert found[1] == f"inline=1;size={len(data)};width=64;preserveAspectRatio=1"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))


def sixels(text: str) -> np.ndarray:
    """A decoder of sixels (H, W, 3), which knows run lengths, colours, `$` and `-`."""
    found = re.fullmatch(r'\x1bP0;1q"1;1;(\d+);(\d+)(.*)\x1b\\\n', text)
    assert found is not None
    width, height = int(found[1]), int(found[2])
    pixels = np.full((-(-height // 6) * 6, width, 3), -1.0)
    colours: dict[int, tuple[float, ...]] = {}
    x = y = colour = 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", found[3]):
        if token[1] is not None:
            colour = int(token[1])
            if token[2] is not None:
                colours[colour] = tuple(int(token[i]) * 2.55 for i in (2, 3, 4))
        elif token[8]:
            x, y = 0, y + 6 * (token[8] == "-")
        else:
            count, bits = int(token[5] or 1), ord(token[6] or token[7]) - 63
            for row in range(6):
                if bits >> row & 1:
                    pixels[y + row, x : x + count] = colours[colour]
            x += count
            assert x <= width
    assert y == len(pixels) and (pixels[height:] == -1).all()
    return pixels[:height]


@pytest.mark.parametrize("size", [(1, 1), (7, 6), (23, 20), (64, 13)])
def test_sixels_are_the_pixels(size: tuple[int, int]) -> None:
    image = few_colours(*size)
    np.testing.assert_allclose(sixels(picture_text(image, "sixel")), np.asarray(image), atol=1e-6)


def test_sixels_of_many_colours_are_near() -> None:
    ramp = np.stack(np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 48)), -1)
    image = Image.fromarray(np.concatenate([ramp, ramp[..., :1]], -1).round().astype(np.uint8))
    assert np.abs(sixels(picture_text(image, "sixel")) - np.asarray(image)).mean() < 12


def blocks(text: str) -> np.ndarray:
    """The pixels of half blocks (2 rows a line)."""
    rows = []
    for line in text.removesuffix("\n").split("\n"):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line)
        assert line.endswith("\x1b[0m") and len(cells) == line.count("▀")
        numbers = np.array(cells, int)
        rows += [numbers[:, :3], numbers[:, 3:]]
    return np.stack(rows)


@pytest.mark.parametrize("size", [(1, 1), (9, 4), (64, 5)])
def test_half_blocks_are_the_pixels(size: tuple[int, int]) -> None:
    image = noise(*size)
    shown = blocks(picture_text(image, "blocks"))
    assert np.array_equal(shown[: size[1]], np.asarray(image)) and not shown[size[1] :].any()
    wide = blocks(picture_text(noise(640, 320), "blocks", columns=32))
    assert wide.shape == (16, 32, 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_every_mode_can_be_shown(protocol: str, mode: str) -> None:
    image = noise(8, 8, mode)
    black = Image.new("RGBA", image.size, "black")
    opaque = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    assert picture_text(image, protocol) == picture_text(opaque, protocol)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-sixel"}, "sixel"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "dumb"}, None),
    ],
)
def test_terminals_say_what_they_can(environment: dict[str, str], protocol: str | None) -> None:
    assert protocol_of(Terminal(), environment) == protocol
    assert protocol_of(io.StringIO(), environment) is None
