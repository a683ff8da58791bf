"""Texts of unknown encoding: UTF-8, UTF-16 and UTF-32, and Windows' cp1252 where nothing else fits."""

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 4096


def decode_text(content: bytes) -> tuple[str, str]:
    """The text, and what was odd about its encoding: "" for UTF-8 and for anything with a byte order mark.

    UTF-16 without a mark is known by its zero bytes. Bytes that are not UTF-8 are read as cp1252, one by one, so that a
    text with a few of them keeps its other letters.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _strict(content[len(mark) :], encoding)
    if b"\0" in content[:_SAMPLE] and len(content) % 2 == 0:
        even, odd = content[:_SAMPLE:2].count(0), content[1:_SAMPLE:2].count(0)
        text, note = _strict(content, "utf-16-le" if odd >= even else "utf-16-be")
        return text, note or f"UTF-16 without a byte order mark, read as {'little' if odd >= even else 'big'} endian"
    return _strict(content, "utf-8")


def _strict(content: bytes, encoding: str) -> tuple[str, str]:
    try:
        return content.decode(encoding), ""
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            return content.decode(encoding, "replace"), f"not {encoding.upper()} ({error.reason}), some of it is lost"
        text = content.decode(encoding, "ldm.cp1252")
        return text, f"not UTF-8 (byte {content[error.start]:#04x}), read as cp1252; save it as UTF-8"


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    """The bytes that are not UTF-8, as cp1252; its five undefined bytes are U+FFFD."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("ldm.cp1252", _as_cp1252)
