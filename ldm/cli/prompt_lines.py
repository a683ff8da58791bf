"""Files of prompts: one a line, or options per line as in A1111's "Prompts from file"."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldm.cli.options import field_named, value_of
from ldm.generation.setting import setting_of

_TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
_COUNTS = ("n_iter", "batch_size")


def read_prompt_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What each line gives, by fields of `Request`, with the line's place for messages.

    Empty lines, and those that begin with `#`, are passed over. A line that begins with `--` has options, A1111's
    (`--prompt "a fox" --negative_prompt sea --cfg_scale 5 --sampler_name "Euler a"`) or those of `ldm generate`;
    every other line is a prompt.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, has no prompt, or an option that is unknown or out of place; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--prompts {path} is not valid UTF-8; save it as UTF-8") from None
    given = []
    for number, line in enumerate(lines, start=1):
        text, where = line.strip(), f"{path} line {number}"
        if not text or text.startswith("#"):
            continue
        try:
            given.append((where, dict(_options(text)) if text.startswith("--") else {"prompt": text}))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not given:
        raise ValueError(f"--prompts {path} has no prompt; write one on each line")
    return given


def _options(line: str) -> Iterator[tuple[str, Any]]:
    words, values = shlex.split(line), dict[str, Any]()
    count = 1
    while words:
        name = words.pop(0)
        if not name.startswith("-"):
            raise ValueError(f"{name!r} stands where an option belongs; quote values with spaces")
        if name.startswith("--no-"):
            yield field_named(name[len("--no-") :]).name, False
            continue
        if name[2:] in _COUNTS:  # A1111's: both count pictures
            count *= _number(name, _next(name, words))
            values["num_images_per_prompt"] = count
            continue
        each = field_named(name)
        if each.type is bool and (not words or words[0].startswith("--")):
            values[each.name] = True
            continue
        text = _next(name, words)
        while each.name in _TEXTS and words and not words[0].startswith("--"):
            text += f" {words.pop(0)}"
        if text == "-1" and each.name in ("seed", "variation_seed"):  # A1111's random seed
            values[each.name] = None
            continue
        value = value_of(each, text, name)
        values[each.name] = {**values.get(each.name, {}), **value} if setting_of(each).read else value
    yield from values.items()


def _next(name: str, words: list[str]) -> str:
    if not words:
        raise ValueError(f"{name} has no value")
    return words.pop(0)


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} {text} is no number of pictures")
    return int(text)
