"""Prompts over time: A1111's published readings, and laws for any text.

Golden values: the doctests of `get_learned_conditioning_prompt_schedules` in AUTOMATIC1111/stable-diffusion-webui
modules/prompt_parser.py (version 1.6), the example at its head, and what the function returns for further texts.
"""

import random

import pytest

from conditioning.prompt.schedule import prompt_schedule

DOCTESTS = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "a [{b|d{:.5] c": [(5, "a  c"), (10, "a {b|d{ c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a|(b:1.1)]": [(step, "a" if step % 2 else "(b:1.1)") for step in range(1, 11)],
    "[fe|]male": [(step, "female" if step % 2 else "male") for step in range(1, 11)],
    "[fe|||]male": [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)],
}
FURTHER = [
    ("[a:b:0]", 10, [(10, "b")]),
    ("[a:b:-2]", 10, [(10, "b")]),
    ("[a:b:99]", 10, [(10, "a")]),
    ("[a:b:1.0]", 10, [(10, "a")]),
    ("[a:b:1e0]", 10, [(1, "a"), (10, "b")]),
    ("[a::3]", 5, [(3, "a"), (5, "")]),
    ("[::3]", 5, [(3, ""), (5, "")]),
    ("[:3]", 5, [(3, ""), (5, "")]),
    ("[a:2:3]", 5, [(3, "a"), (5, "2")]),
    ("[a: 2 ]", 4, [(2, ""), (4, "a")]),
    ("[[a]:3]", 5, [(3, ""), (5, "[a]")]),
    ("nested [a|[b:c:0.5]]", 4, [(1, "nested a"), (2, "nested b"), (3, "nested a"), (4, "nested c")]),
    ("[a:[b|c]:0.5]", 4, [(1, "a"), (2, "a"), (3, "b"), (4, "c")]),
    ("[[a|b]]", 4, [(1, "[a]"), (2, "[b]"), (3, "[a]"), (4, "[b]")]),
    ("(a [b:c:2] d:1.3)", 4, [(2, "(a b d:1.3)"), (4, "(a c d:1.3)")]),
    ("(a:[b:c:0.5]:1.2)", 4, [(2, "(a:b:1.2)"), (4, "(a:c:1.2)")]),
    ("[a\\:b:3]", 5, [(3, ""), (5, "a\\:b")]),
]
TEXT = [
    "a \\[b:3\\]",
    "[a]:3]",
    "a [b:c",
    "[a|b:c]",
    "[a:b:c:0.5]",
    "[(a:b:1):c:0.5]",
    "a|b",
    "(a|b)",
    "[plain]",
    "(word:1.2) [word] \\(x\\) a\\",
    "",
]


@pytest.mark.parametrize(("text", "expected"), DOCTESTS.items())
def test_the_published_doctests_hold(text, expected):
    assert prompt_schedule(text, 10) == expected


@pytest.mark.parametrize(("text", "steps", "expected"), FURTHER)
def test_edits_and_alternations_are_the_webuis(text, steps, expected):
    assert prompt_schedule(text, steps) == expected


@pytest.mark.parametrize("text", TEXT)
def test_what_changes_nothing_is_left_alone(text):
    assert prompt_schedule(text, 10) == [(10, text)]


def test_the_published_example_holds():
    text = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert prompt_schedule(text, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


def test_a_bar_or_backslash_elsewhere_does_not_stop_the_reading():
    assert prompt_schedule("{x|y} [a:b:2]\\", 4) == [(2, "{x|y} a\\"), (4, "{x|y} b\\")]


def test_any_text_has_a_schedule_that_covers_every_step_once():
    rng = random.Random(3)
    parts = [
        "a",
        "red ",
        "[",
        "]",
        "[",
        "]",
        ":",
        "|",
        "(",
        ")",
        "\\",
        "\\[",
        ":2]",
        ":.5]",
        ":1e999]",
        ":-1e999]",
        "\n",
    ]
    for _ in range(20_000):
        text = "".join(rng.choices(parts, k=rng.randint(0, 14)))
        steps = rng.choice([1, 2, 7])
        ends = [end for end, _ in prompt_schedule(text, steps)]
        assert ends == sorted(set(ends)) and ends[0] >= 1 and ends[-1] == steps, text


@pytest.mark.parametrize("text", ["[" * 5000, "[" * 5000 + "a" + "]" * 5000, "[a:" * 3000 + ":1]" * 3000, "(:" * 9000])
def test_no_text_is_too_deep(text):
    assert prompt_schedule(text, 3)[-1][0] == 3


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps=0 is no number of steps; use 1 or more"):
        prompt_schedule("a", 0)
