"""Pictures in terminals: kitty's graphics, iTerm2's inline images, sixels, or half blocks in 24-bit colour.

kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol, iTerm2: https://iterm2.com/documentation-images.html,
sixel: VT330/VT340 Programmer Reference, chapter 14.
"""

import base64
import io
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from PIL.Image import Image

_ESCAPE, _END = "\x1b", "\x1b\\"
_KITTY_CHUNK = 4096
_COLOURS = 255
_MOST_COLUMNS = 64


def picture_text(image: "Image", protocol: str, columns: int = _MOST_COLUMNS) -> str:
    """What makes a terminal show a picture, at most `columns` of its characters wide; ends in a line break.

    Args:
        image: in any mode; what is transparent is shown on black.
        protocol: one of `PROTOCOLS`.
        columns: of the terminal that it may take.
    """
    return PROTOCOLS[protocol](_opaque(image), columns) + "\n"


def protocol_of(stream: TextIO, environment: Mapping[str, str] = os.environ) -> str | None:
    """The best way in which a stream's terminal shows pictures; None for files, pipes and terminals that cannot.

    Terminals say what they are in variables of the environment. Within tmux and screen, which keep pictures from the
    terminal, and wherever nothing is known, it is half blocks.
    """
    if not stream.isatty() or environment.get("TERM") == "dumb":
        return None
    if environment.get("TMUX") or environment.get("STY"):
        return "blocks"
    program, term = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or "kitty" in term or "ghostty" in (term + program).lower():
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty", "vscode") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if any(name in term for name in ("sixel", "mlterm", "foot", "yaft", "contour")):
        return "sixel"
    return "blocks"


def _kitty(image: "Image", columns: int) -> str:
    """PNG in base64 pieces of at most 4096 bytes; m=1 says that more follow, q=2 that no answer is wanted."""
    data, columns = base64.b64encode(_png(image)).decode(), _columns(image, columns)
    pieces = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    commands = []
    for number, piece in enumerate(pieces):
        first = f"a=T,f=100,q=2,c={columns}," if number == 0 else ""
        commands.append(f"{_ESCAPE}_G{first}m={int(number < len(pieces) - 1)};{piece}{_END}")
    return "".join(commands)


def _iterm(image: "Image", columns: int) -> str:
    data = _png(image)
    settings = f"inline=1;size={len(data)};width={_columns(image, columns)};preserveAspectRatio=1"
    return f"{_ESCAPE}]1337;File={settings}:{base64.b64encode(data).decode()}\a"


def _sixel(image: "Image", columns: int) -> str:
    """Bands of six rows, in each of which every colour has its turn: `#n` chooses it, `$` goes back, `-` goes down."""
    import numpy as np

    image = _at_most(image, columns * 10)
    palette_image = image.quantize(_COLOURS)
    indices, palette = np.asarray(palette_image), palette_image.getpalette() or []
    height, width = indices.shape
    used = np.unique(indices).tolist()
    text = [f'{_ESCAPE}P0;1q"1;1;{width};{height}']
    for colour in used:
        red, green, blue = (round(level * 100 / 255) for level in palette[3 * colour : 3 * colour + 3])
        text.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band)))[:, None]
        rows = [
            f"#{colour}{_run_lengths(((band == colour) * weights).sum(0).tolist())}"
            for colour in np.unique(band).tolist()
        ]
        text.append("$".join(rows) + "-")
    return "".join(text) + _END


def _run_lengths(sixels: list[int]) -> str:
    """`!5@` for five times the same, where that is shorter."""
    text, start = [], 0
    for end in range(1, len(sixels) + 1):
        if end == len(sixels) or sixels[end] != sixels[start]:
            count, character = end - start, chr(63 + sixels[start])
            text.append(f"!{count}{character}" if count > 3 else character * count)
            start = end
    return "".join(text)


def _blocks(image: "Image", columns: int) -> str:
    """Two pixels a character: the upper half block in one colour on another one as the ground."""
    import numpy as np

    pixels = np.asarray(_at_most(image, columns))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        pairs = zip(upper, lower, strict=True)
        cells = [f"{_ESCAPE}[38;2;{_rgb(above)};48;2;{_rgb(below)}m\N{UPPER HALF BLOCK}" for above, below in pairs]
        lines.append("".join(cells) + f"{_ESCAPE}[0m")
    return "\n".join(lines)


def _rgb(pixel: list[int]) -> str:
    return ";".join(map(str, pixel))


PROTOCOLS: dict[str, Callable[["Image", int], str]] = {
    "kitty": _kitty,
    "iterm": _iterm,
    "sixel": _sixel,
    "blocks": _blocks,
}


def _opaque(image: "Image") -> "Image":
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")


def _at_most(image: "Image", width: int) -> "Image":
    """The picture, made smaller where it is wider."""
    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))))


def _columns(image: "Image", columns: int) -> int:
    """A character is about ten pixels wide; small pictures are shown in their own size."""
    return max(1, min(columns, -(-image.width // 10)))


def _png(image: "Image") -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
