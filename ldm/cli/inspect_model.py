"""`ldm inspect model.safetensors`: what a file of weights is."""

import json
from dataclasses import asdict
from pathlib import Path

from ldm.naming import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")
_LONGEST = 200


def is_picture(path: Path) -> bool:
    """Whether a file is called or begins as pictures do. One that is missing is left to the reader of pictures."""
    if not path.is_file() or path.suffix.lower() in SUFFIXES:
        return not path.is_dir()
    with open(path, "rb") as file:
        return file.read(8).startswith(PICTURES)


def show_model(path: Path, as_json: bool) -> None:
    """Print type, parameters, types of numbers, prediction, metadata and hashes of a file of weights."""
    from ldm.cli.byte_bar import ByteBar
    from ldm.io.inspection import hash_file, inspect_model

    report = inspect_model(path)
    with ByteBar("hashing", report.bytes) as bar:
        hashes = hash_file(path, bar.advance)
    content = {**asdict(report), "path": str(path), **asdict(hashes)}
    if as_json:
        print(json.dumps(content, ensure_ascii=False))
        return
    rows = {
        "file": f"{path} ({report.format}, {report.bytes:,} bytes)",
        "type": report.type,
        "prediction": report.prediction,
        "parameters": ", ".join(f"{name} {count:,}" for name, count in report.sizes.items()),
        "dtype": ", ".join(f"{name} ({count})" for name, count in report.dtypes.items()),
        "sha256": hashes.sha256,
        "A1111 hash": f"{hashes.short} (before 2023: {hashes.old})",
        **{f"left out ({count})": reason for reason, count in report.left_out.items()},
        **{name: shortened(value) for name, value in sorted(report.metadata.items())},
    }
    width = max(len(name) for name, value in rows.items() if value)
    for name, value in rows.items():
        if value:
            print(f"{printable(name):{width}}  {printable(value)}")


def shortened(text: str) -> str:
    """One line of at most 200 letters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... ({len(text):,} letters)"
