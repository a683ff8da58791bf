"""The picture files that are named on a command line: a file, a folder, or a pattern."""

from pathlib import Path

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
"""Of the files in a folder that are taken for pictures."""


def picture_files(image: str) -> list[Path]:
    """The files that a file, a folder or a pattern names, in order.

    Raises:
        ValueError: a folder or a pattern has none.
    """
    from glob import glob

    path = Path(image)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in ENDINGS and each.is_file())
        if not files:
            raise ValueError(f"{image} holds no pictures; there are none that end in {', '.join(ENDINGS)}")
        return files
    if not path.exists() and any(sign in image for sign in "*?["):
        files = sorted(Path(each) for each in glob(image, recursive=True) if Path(each).is_file())
        if not files:
            raise ValueError(f"no file is called as {image} says")
        return files
    return [path]
