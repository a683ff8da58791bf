"""Laws of prompts that are drawn by lot."""

import random
from collections import Counter
from pathlib import Path

import pytest

from conditioning.prompt.wildcards import draw, literal


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sea").mkdir()
    (tmp_path / "animal.txt").write_text("# a comment\nfox\n\n__sea/fish__\n{red|green} bird\n", encoding="utf-8")
    (tmp_path / "sea" / "fish.txt").write_text("eel\n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "snake.txt").write_text("a __tail__\n", encoding="utf-8")
    (tmp_path / "tail.txt").write_text("a __snake__\n", encoding="utf-8")
    return tmp_path


def outcomes(text, folder=None, seeds=300):
    return Counter(draw(text, seed, folder) for seed in range(seeds))


def test_a_choice_depends_on_seed_and_text_alone():
    text = "{a|b|c} {a|b|c} {a|b|c}"
    first = [draw(text, seed) for seed in range(50)]
    random.seed(1)
    assert [draw(text, seed) for seed in range(50)] == first
    assert draw("{a|b|c} " * 9, 5) != draw("{a|b|c} " * 9, 6)


def test_the_draw_is_the_same_for_ever():
    """Recipes in pictures rely on it. SHA-256 of b"1\\n<seed>\\n<text>" as a big-endian number, modulo the options."""
    import hashlib

    text = "{red|green|blue} apple"
    digest = hashlib.sha256(f"1\n7\n{text}".encode()).digest()
    assert draw(text, 7) == ["red", "green", "blue"][int.from_bytes(digest, "big") % 3] + " apple"


def test_options_are_equally_likely_and_independent():
    seen = outcomes("{a|b}{a|b}{a|b}", seeds=1600)
    assert len(seen) == 8 and all(140 < count < 260 for count in seen.values())


def test_options_nest():
    assert set(outcomes("{a {b|c}|d}")) == {"a b", "a c", "d"}
    assert set(outcomes("x{|y}")) == {"x", "xy"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{2$$a|b|c}", {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{2-$$+$$a|b}", {"a+b", "b+a"}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{0$$a|b}c", {"c"}),
    ],
)
def test_several_options_are_drawn_without_repeats(text, expected):
    assert set(outcomes(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{word}",
        "{",
        "}",
        "a|b",
        "{a|b",
        "}{",
        "(a:1.2) [b|c] \\(",
        "__animal__",
        "snake_case __ x",
        "${x}",
        "a\\|b",
    ],
)
def test_what_offers_no_choice_is_text(text):
    assert draw(text, 0) == text


def test_escaped_marks_are_themselves(folder):
    assert draw("\\{a|b\\} {x\\|y|x\\|y}", 0) == "{a|b} x|y"
    assert draw("\\_\\_animal\\_\\_", 0, folder) == "__animal__"


def test_any_text_is_drawn():
    rng = random.Random(5)
    parts = ["a", "{", "}", "|", "$$", "2$$", "\\", "\\{", "__", "_", "::", "{", "}", "99999999999$$", "-"]
    for number in range(20_000):
        assert isinstance(draw("".join(rng.choices(parts, k=rng.randint(0, 14))), number), str)
    assert draw("{" * 9000, 0) == "{" * 9000


def test_wildcards_are_lines_of_files(folder):
    assert set(outcomes("__animal__!", folder)) == {"fox!", "eel!", "red bird!", "green bird!"}
    assert draw("__sea/fish__ and __sea/fish__", 0, folder) == "eel and eel"


def test_wildcards_can_be_options(folder):
    assert set(outcomes("{__sea/fish__|cat}", folder)) == {"eel", "cat"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__animl__", r"wildcard __animl__ has no file animl\.txt in .*; there are: animal"),
        ("__empty__", r"wildcard __empty__: .*empty\.txt has no line to draw"),
        ("__snake__", "wildcard __snake__ contains itself: snake > tail > snake"),
        ("__../animal__", "has no file"),
    ],
)
def test_a_wildcard_that_gives_nothing_is_named(folder, text, message):
    with pytest.raises(ValueError, match=message):
        draw(text, 0, folder / "sea" if ".." in text else folder)


def test_a_finished_prompt_can_be_repeated(folder):
    lot = random.Random(0)
    for _ in range(2000):
        text = "".join(lot.choice("{}|_\\ab$2") for _ in range(lot.randint(0, 12)))
        assert {draw(literal(text), seed, folder) for seed in (0, 1)} == {text}


def test_files_that_double_each_other_are_refused_soon(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"w{number}.txt").write_text(f"__w{number + 1}__ __w{number + 1}__\n")
    (tmp_path / "w20.txt").write_text("x\n")
    with pytest.raises(ValueError, match="one prompt draws more than 1,000 lines"):
        draw("__w10__ __w0__", 0, tmp_path)


def test_prompts_do_not_grow_without_end(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("y" * 20_000)
    for text in ("x" * 32_001, "__long__ __long__", "{300$$" + "," * 200 + "$$" + "|".join("abc" * 100) + "}"):
        with pytest.raises(ValueError, match=r"use (at most 32,000|fewer)"):
            draw(text, 0, tmp_path)
    assert draw("x" * 32_000, 0, tmp_path) == "x" * 32_000


def test_a_wildcard_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"wildcard __odd__: .*odd\.txt is not UTF-8"):
        draw("__odd__", 0, tmp_path)
