"""Compel's weights: the examples of its own documents (damian0815/compel, doc/syntax.md) and laws for any text."""

import random

import pytest

from conditioning.prompt.fragments import BREAK, MAX_DEPTH
from conditioning.prompt.syntax import parse


def weights(text: str) -> dict[str, float]:
    return {piece.text.strip(): round(piece.weight, 6) for piece in parse(text, "compel") if piece is not BREAK}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a tall thin man", {"a tall thin man": 1.0}),
        ("a tall thin man picking apricots+", {"a tall thin man picking": 1.0, "apricots": 1.1}),
        ("a tall thin man (picking apricots)++", {"a tall thin man": 1.0, "picking apricots": 1.21}),
        ("a tall man (picking apricots)1.3", {"a tall man": 1.0, "picking apricots": 1.3}),
        ("a (tall thin)- man", {"a": 1.0, "tall thin": 0.9, "man": 1.0}),
        ("a (tall (thin)1.5 man)0.5", {"a": 1.0, "tall": 0.5, "thin": 0.75, "man": 0.5}),
        ("fox-- (red)", {"fox": 0.81, "red": 1.0}),
        ("a well-known fox", {"a well-known fox": 1.0}),
        (r"a fox \(animal\)", {"a fox (animal)": 1.0}),
        ("1+1 fox", {"1+1 fox": 1.0}),
    ],
)
def test_weights_are_those_of_the_documents(text: str, expected: dict[str, float]) -> None:
    assert weights(text) == expected


def test_and_begins_a_chunk_with_each_text() -> None:
    first, middle, second = parse('("a fox", "red++ snow").and(1, 0.5)', "compel")[:3]
    assert first == ("a fox", 1.0) and middle is BREAK and second == ("red", pytest.approx(1.21 * 0.5))


@pytest.mark.parametrize("text", ['("a", "b").blend(0.5, 0.5)', "a cat.swap(dog)", '(a cat).swap("a dog")'])
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"the prompt's .(blend|swap)\(\) is not read here"):
        parse(text, "compel")


def test_any_other_text_is_read_and_keeps_its_letters() -> None:
    lot = random.Random(0)
    for _ in range(500):
        text = "".join(lot.choice('ab (")+-1.5\\,') for _ in range(lot.randint(0, 40)))
        pieces = parse(text, "compel")
        letters = [letter for piece in pieces if piece is not BREAK for letter in piece.text if letter in "ab"]
        assert letters == [letter for letter in text if letter in "ab"]
    assert parse("(" * (MAX_DEPTH + 50) + "a" + ")" * (MAX_DEPTH + 50) + "+" * 10_000, "compel")
