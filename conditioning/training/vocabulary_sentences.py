"""Sentences without pictures for the text teacher: a vocabulary wider than the captions."""

from collections.abc import Iterable, Sequence


def vocabulary_sentences(words: Iterable[str], styles: Sequence[str] = (), styled: int = 2) -> list[str]:
    """Words and short phrases -> sentences built the way prompts are.

    Per word: "kitten", "a kitten" and `styled` times "a kitten, 3d style". The same input gives the same list.

    Args:
        words: for example the CLDR keywords of emojibase (`tags` in its en/data.json): "kitten", "vehicle", "birthday".
        styles: style words of the captions ("3d style"); they are used in turn, so all are used alike.
        styled: sentences with a style for each word.
    """
    sentences = []
    turn = 0
    for word in sorted({word.strip().lower() for word in words} - {""}):
        article = "an" if word[0] in "aeiou" else "a"
        sentences += [word, f"{article} {word}"]
        for _ in range(min(styled, len(styles))):
            sentences.append(f"{article} {word}, {styles[turn % len(styles)]}")
            turn += 1
    return sentences
