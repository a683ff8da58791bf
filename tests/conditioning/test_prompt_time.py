"""Every reader of prompts takes time in proportion to their length, whatever stands in them."""

from collections.abc import Callable
from contextlib import suppress
from time import process_time

import pytest

from conditioning.prompt.composition import compose
from conditioning.prompt.regions import lay_out
from conditioning.prompt.schedule import prompt_schedule
from conditioning.prompt.syntax import MAX_LENGTH, parse
from conditioning.prompt.wildcards import draw, literal
from ldm.adapters.lora.tags import lora_tags
from ldm.io.metadata.foreign_recipes import foreign_recipe

READERS: dict[str, Callable[[str], object]] = {
    "schedule": lambda text: prompt_schedule(text, 20),
    "a1111": lambda text: parse(text, "a1111"),
    "comfy": lambda text: parse(text, "comfy"),
    "wildcards": lambda text: draw(text, 0),
    "literal": literal,
    "AND": compose,
    "regions": lay_out,
    "tags": lora_tags,
    "parameters": lambda text: foreign_recipe({"parameters": text}),
}
UNITS = (
    *(
        "a",
        "word ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "{a|b}",
        "{a|",
        "|",
        "_",
        "__a",
        "\\",
        ":",
        "(a",
        "(a:1)",
        "[a:b:1] ",
    ),
    *("[a|b]", "[a:", ":1)", "(:", " AND ", " BREAK ", " ", "\n", "<lora:", "<lora:a:1>", "$$", "{2$$a|", " ADDROW "),
    *("\\(", "(a)", ":    1", 'a:"', 'a: "\\"', "a/", "a:b, ", '"'),
)


@pytest.mark.parametrize("reader", READERS)
def test_time_is_linear_in_length(reader: str) -> None:
    for unit in UNITS:
        text = unit * (MAX_LENGTH // len(unit))
        started = process_time()
        with suppress(ValueError):
            READERS[reader](text)
        # A reader that compares every two letters takes a minute here, a linear one some hundredths of a second.
        assert process_time() - started < 3, unit


def test_a_megabyte_without_colons_is_read_at_once() -> None:
    started = process_time()
    recipe = foreign_recipe({"parameters": "a" * 10**6})
    assert recipe is not None and len(recipe.values["prompt"]) == 10**6
    assert process_time() - started < 10
