"""Sizes of a request: of the finished picture, and of the tiles that a network sees of it."""

from ldm.generation.request import Request


def size_for(request: Request, usual: tuple[int, int], enlarged: int, multiple: int) -> tuple[int, int]:
    """Height and width of the finished picture.

    Args:
        request: which may leave them open.
        usual: height and width that are denoised then, before any upscaler.
        enlarged: how often the upscaler enlarges.
        multiple: of pixels that the model can finish.

    Raises:
        ValueError: no such multiple; names a near one.
    """
    height = usual[0] * enlarged if request.height is None else request.height
    width = usual[1] * enlarged if request.width is None else request.width
    for name, value in (("width", width), ("height", height)):
        check_multiple(name, value, multiple)
    return height, width


def tile_for(request: Request, multiple: int) -> tuple[int | None, int]:
    """Side of a tile, None without tiles, and what neighbours share, in pixels of the finished picture.

    Raises:
        ValueError: names the field that is without effect, no multiple or too large.
    """
    size, overlap = request.tile_size, request.tile_overlap
    if size is None:
        for name, given in (("tile_overlap", overlap is not None), ("tile_jitter", request.tile_jitter)):
            if given:
                raise ValueError(f"{name}={getattr(request, name)} is without effect; give a tile_size, too")
        return None, 0
    if overlap is None:
        overlap = size // (4 * multiple) * multiple
    check_multiple("tile_size", size, multiple)
    check_multiple("tile_overlap", overlap, multiple)
    if overlap >= size:
        raise ValueError(f"tile_overlap={overlap} is not less than tile_size={size}; use {size // 4} or so")
    return size, overlap


def check_multiple(name: str, value: int, multiple: int, reason: str = "") -> None:
    """Refuse a number of pixels that is no multiple; `reason` says in a clause why it must be one.

    Raises:
        ValueError: names the field, its value and the nearest multiples.
    """
    if value % multiple:
        lower = value // multiple * multiple
        near = f"{lower} or {lower + multiple}" if lower else f"{multiple}"
        raise ValueError(f"{name}={value} is not a multiple of {multiple}{reason}; use {near}")
