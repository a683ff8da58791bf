"""No private words: identifiers and messages use the field's terms."""

import ast
import re
from collections.abc import Iterator

import pytest
from checkout import ROOT

PRIVATE = re.compile(r"(?<![a-z])(told|asked|players?|laid|wish(?:ed|es)?|drawn)(?![a-z])", re.I)
OLD_NAMES = {"asked", "loop.player_lr"}
"""Names in pictures and configurations of older versions, which are still read, or refused with the new name."""


def names_and_messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every name that is defined or used, and of every string that documents nothing."""
    documentation = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)  # a lambda's is an expression
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield line, node.value
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield line, name


@pytest.mark.parametrize("package", ["ldm", "autoencoder", "conditioning"])
def test_names_and_messages_are_the_fields(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {text[:60]!r}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in names_and_messages(ast.parse(path.read_text(encoding="utf-8")))
        if PRIVATE.search(text) and text not in OLD_NAMES
    ]
    assert not found, "\n".join(found)
