"""Weights in prompts: the published readings of A1111 and ComfyUI, and laws for any text.

Golden values: the doctests of `parse_prompt_attention` in AUTOMATIC1111/stable-diffusion-webui
modules/prompt_parser.py, and what that function and `token_weights` of comfyanonymous/ComfyUI comfy/sd1_clip.py return
for further texts.
"""

import random

import pytest

from conditioning.prompt.composition import compose
from conditioning.prompt.fragments import BREAK, MAX_DEPTH, MAX_WEIGHT, Fragment
from conditioning.prompt.regions import lay_out
from conditioning.prompt.syntax import MODES, parse

A1111_DOCTESTS = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    "\\(literal\\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}
A1111_QUIRKS = {
    "(a:1.2:3)": [("a:1.2", 3.0)],
    "trailing ((": [("trailing ", 1.0)],
    "]stray[": [("]stray", 1.0)],
    "a) b": [("a) b", 1.0)],
    "(a : 1.5)": [("a ", 1.5)],
    "(a: 1.5 )": [("a", 1.5)],
    "[a:1.5]": [("a:1.5", 0.9090909090909091)],
    "(a]b)": [("a]b", 1.1)],
    "[(a]b)": [("a", 1.0), ("b", 1.1)],
    "a\\b": [("ab", 1.0)],
    "\\\\ \\[": [("\\ [", 1.0)],
    "((a:1.2):1.5)": [("a", 1.7999999999999998)],
    "(x (a:1.2) y:1.5)": [("x ", 1.5), ("a", 1.7999999999999998), (" y", 1.5)],
    "(a:-1) (b:+2) (c:.5)": [("a", -1.0), (" ", 1.0), ("b", 2.0), (" ", 1.0), ("c", 0.5)],
    "(:1.2)": [],
    "()": [],
    "": [],
    "(a:)": [("a:", 1.1)],
    "(a:1.2": [("a:1.2", 1.1)],
    "a:1.2)": [("a:1.2)", 1.0)],
    "(a:b)": [("a:b", 1.1)],
    "BREAK a": [BREAK, ("a", 1.0)],
    "a, BREAK, b": [("a,", 1.0), BREAK, (", b", 1.0)],
    "BREAKfast is not a BREAK": [("BREAKfast is not a", 1.0), BREAK],
    "(a)BREAK(b)": [("a", 1.1), BREAK, ("b", 1.1)],
    "a\nBREAK\nBREAK b": [("a", 1.0), BREAK, BREAK, ("b", 1.0)],
}
COMFY = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("(unbalanced", 1.0)],
    "\\(literal\\)": [("(literal)", 1.0)],
    "\\[a\\]": [("\\[a\\]", 1.0)],
    "[a] BREAK b": [("[a] BREAK b", 1.0)],
    "(unnecessary)(parens)": [("unnecessary", 1.1), ("parens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("(((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", 1.0),
    ],
    "": [],
    "()": [],
    "(a:1.2:3)": [("a:1.2", 3.0)],
    "trailing ((": [("trailing ", 1.0), ("((", 1.0)],
    "a) (b)": [("a) (b)", 1.0)],
    "a) ((b))": [("a) (", 1.0), ("b", 1.1), (")", 1.0)],
    "(a (b)": [("a ", 1.1), ("(b", 1.1)],
    "(a : 1.5)": [("a ", 1.5)],
    "((a))": [("a", 1.2100000000000002)],
    "((a:1.2))": [("a", 1.2)],
    "((a:1.2):1.5)": [("a", 1.2)],
    "(x (a:1.2) y:1.5)": [("x ", 1.5), ("a", 1.2), (" y", 1.5)],
    "(:1.2)": [(":1.2", 1.1)],
    "(a:)": [("a:", 1.1)],
    "(a:1.2": [("(a:1.2", 1.0)],
    "a:1.2)": [("a:1.2)", 1.0)],
    "(a:1e1)": [("a", 10.0)],
    "(a\\:1.2)": [("a\\", 1.2)],
    "\\\\(a)": [("\\(a)", 1.0)],
    "(embedding:x:1.2)": [("embedding:x", 1.2)],
}
WORDS = [
    "a",
    "red",
    " ",
    ", ",
    "\\",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "\\\\",
    "été",
    "\n",
    "\0",
    "🚀",
    "BREAK",
    " BREAK ",
    "",
]
MARKS = ["(", ")", "[", "]", ":", "|", ":1.2)", ":.5)", ":1.2.3)", ":1e9)", ":nan)", ":-1)", "((", "))", "AND", "1.5"]


def texts(count: int, longest: int = 12):
    """Random texts that are mostly syntax."""
    rng = random.Random(7)
    for _ in range(count):
        yield "".join(rng.choice(WORDS if rng.random() < 0.4 else MARKS) for _ in range(rng.randint(0, longest)))


@pytest.mark.parametrize(("text", "expected"), [*A1111_DOCTESTS.items(), *A1111_QUIRKS.items()])
def test_a1111_reads_what_the_webui_reads(text, expected):
    assert list(parse(text, "a1111")) == expected


@pytest.mark.parametrize(("text", "expected"), COMFY.items())
def test_comfy_reads_what_comfyui_reads(text, expected):
    assert list(parse(text, "comfy")) == expected


def test_a_number_that_is_none_is_text():
    assert list(parse("(a:1.2.3)", "a1111")) == [("a:1.2.3", 1.1)]
    assert list(parse("(a:nan)", "comfy")) == [("a:nan", 1.1)]


def test_a_break_in_brackets_breaks():
    assert list(parse("(a BREAK b:1.2)", "a1111")) == [("a", 1.2), BREAK, ("b", 1.2)]


def test_plain_is_the_text_itself():
    assert parse("(a:1.2) [b] BREAK \\(", "plain") == (Fragment("(a:1.2) [b] BREAK \\(", 1.0),)


@pytest.mark.parametrize("mode", MODES)
def test_any_text_parses(mode):
    for text in texts(20_000):
        pieces = parse(text, mode)
        assert all(piece is BREAK or abs(piece.weight) <= MAX_WEIGHT for piece in pieces), text


@pytest.mark.parametrize("mode", MODES)
def test_a_text_without_syntax_is_itself(mode):
    for text in ("a red apple, 3d style", "at 10:30 o'clock", "{x|y}"):
        assert parse(text, mode) == ((text, 1.0),)


@pytest.mark.parametrize("mode", ["a1111", "comfy"])
def test_weights_and_depth_have_bounds(mode):
    assert parse(f"(a:{'9' * 400})", mode) == (("a", MAX_WEIGHT),)
    deep = "(" * 5000 + "a" + ")" * 5000
    [fragment] = [piece for piece in parse(deep, mode) if piece.text.strip("()")]
    assert fragment.weight == pytest.approx(1.1**MAX_DEPTH)
    for text in ("(" * 5000, ")" * 5000, "(a" * 5000, "[" * 5000, "\\" * 5001):
        assert all(piece is not BREAK for piece in parse(text, mode))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode='a111' is unknown; use a1111, comfy, compel or plain"):
        parse("a", "a111")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a AND b :1.2", [("a", 1.0), (" b", 1.2)]),
        ("a :0.5 AND b", [("a", 0.5), (" b", 1.0)]),
        ("a AND  b : -1.5 AND c", [("a", 1.0), ("  b", -1.5), (" c", 1.0)]),
        ("AND", [("", 1.0), ("", 1.0)]),
        ("(a:1.2) AND b", [("(a:1.2)", 1.0), (" b", 1.0)]),
        ("a\nb AND c :2.", [("a\nb", 1.0), (" c", 2.0)]),
    ],
)
def test_and_joins_prompts_as_in_the_webui(text, expected):
    """What `get_multicond_prompt_list` of modules/prompt_parser.py returns."""
    assert list(compose(text)) == expected


@pytest.mark.parametrize("text", ["", "aAND b", "sand and AND_b", "a train at 10:30"])
def test_one_prompt_alone_keeps_its_text_and_weight(text):
    assert compose(text) == ((text, 1.0),)


def test_any_text_is_a_composition():
    for text in texts(5000):
        assert len(compose(text)) >= 1


def test_rows_and_columns_share_the_picture():
    layout = lay_out("fantasy ADDCOMM\nsky ADDROW\ncastle ADDCOL\n(tree:1.2)")
    assert layout.base is None
    assert layout.regions == (
        ("fantasy, sky", (0, 0, 1, 0.5)),
        ("fantasy, castle", (0, 0.5, 0.5, 1)),
        ("fantasy, (tree:1.2)", (0.5, 0.5, 1, 1)),
    )


def test_a_base_is_kept_apart_from_the_common_part():
    layout = lay_out("best ADDCOMM a field ADDBASE red ADDCOL blue")
    assert layout.base == "a field"
    assert [region.text for region in layout.regions] == ["best, red", "best, blue"]


@pytest.mark.parametrize("text", ["", " a red apple ", "ADDCOLOUR"])
def test_a_prompt_without_regions_is_the_whole_picture(text):
    assert lay_out(text).base is None
    assert lay_out(text).regions == ((text, (0, 0, 1, 1)),)


def test_regions_cover_the_picture_once():
    for text in ("a ADDCOL b ADDROW c", "a ADDROW b ADDROW c ADDCOL d ADDCOL e"):
        boxes = [region.box for region in lay_out(text).regions]
        assert sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) == pytest.approx(1)
