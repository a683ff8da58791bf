"""The texts that a picture carries: PNG chunks, EXIF, XMP, comments, and bits hidden in its pixels."""

import gzip
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import unescape

from ldm.io.metadata.png import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_TAGS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software", 0x9C9C: "XPComment"}
_LARGEST = 64 * 2**20
_MARKS = {b"stealth_pnginfo": ("A", False), b"stealth_pngcomp": ("A", True)}
_MARKS |= {b"stealth_rgbinfo": ("RGB", False), b"stealth_rgbcomp": ("RGB", True)}
_XMP_TEXT = re.compile(
    r"<(?:dc:description|exif:UserComment)>.{0,200}?<rdf:li[^>]{0,100}>([^<]*)</rdf:li>|parameters=\"([^\"]*)\"", re.S
)


def read_texts(path: Path) -> dict[str, str]:
    """All texts of a picture, by keyword; those of EXIF and XMP by the names of their fields.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, or not a whole one.
    """
    with open_picture(path) as image:
        return _texts_of(image)


def _texts_of(image: "Image") -> dict[str, str]:
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    for name, value in image.info.items():
        if name in ("comment", "Comment") and name not in texts:
            texts[name] = value if isinstance(value, str) else _decode(value)
    texts |= {name: text for name, text in _exif(image).items() if name not in texts}
    xmp = image.info.get("xmp") or texts.get("XML:com.adobe.xmp") or b""
    for found in _XMP_TEXT.finditer(xmp if isinstance(xmp, str) else xmp.decode("utf-8", "replace")):
        texts.setdefault("XMP", unescape(found[1] or found[2] or "", {"&quot;": '"', "&#xA;": "\n", "&#10;": "\n"}))
    if not texts and (hidden := _hidden_text(image)):
        texts["stealth"] = hidden
    return texts


def _exif(image: "Image") -> dict[str, str]:
    """Texts of EXIF fields that tools write into."""
    try:
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except Exception:  # Pillow's readers of damaged EXIF raise whatever they meet
        return {}
    found = {name: exif[tag] for tag, name in _TAGS.items() if tag in exif} | {"UserComment": comment}
    return {name: text for name, value in found.items() if value and (text := _exif_text(name, value))}


def _exif_text(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        value = bytes(value)
    if isinstance(value, str):
        return value.strip("\0 ")
    if name == "XPComment":
        return value.decode("utf-16-le", "replace").strip("\0 ")
    return _decode(value)


def _decode(content: bytes) -> str:
    """A comment whose first eight bytes may name its encoding: UTF-16, perhaps with a mark, or UTF-8."""
    prefix, body = content[:8], content[8:]
    if prefix == b"UNICODE\0":
        return _decode_utf16(body)
    if prefix in (b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8)):
        content = body
    return content.decode("utf-8", "replace").strip("\0 ")


def _decode_utf16(body: bytes) -> str:
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return body.decode("utf-16", "replace").strip("\0 ")
    # Most letters of a recipe are ASCII: their zero bytes say which order it is. A1111 writes big endian.
    little = body[1::2].count(0) > body[::2].count(0)
    return body.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0 ")


def _hidden_text(image: "Image") -> str:
    """The text in the lowest bits of alpha or of the colours, column by column ("stealth PNG info"), or nothing."""
    import numpy as np

    if image.mode not in ("RGB", "RGBA") or image.width * image.height < 256:
        return ""
    pixels = np.asarray(image)
    for channels, bands in (("A", pixels[..., 3:]), ("RGB", pixels[..., :3])):
        bits = (bands.transpose(1, 0, 2) & 1).reshape(-1)
        header = np.packbits(bits[: 19 * 8]).tobytes()
        layout = _MARKS.get(header[:15])
        if layout is None or layout[0] != channels or len(header) < 19:
            continue
        length = int.from_bytes(header[15:19], "big")
        if not 0 < length <= min(len(bits) - 19 * 8, _LARGEST):
            continue
        content = np.packbits(bits[19 * 8 : 19 * 8 + length]).tobytes()
        if layout[1]:
            try:
                content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_LARGEST)
            except (OSError, EOFError):
                continue
        return content.decode("utf-8", "replace")
    return ""
