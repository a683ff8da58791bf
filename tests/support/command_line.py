"""Commands as a user gives them, and what comes of them."""

from pathlib import Path

from typer.testing import CliRunner

from ldm.cli import app
from ldm.generation.from_picture import request_from
from ldm.generation.request import Request

QUICK = ["--steps", "2", "--seed", "5"]


def ldm(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def generate(model: Path, *arguments: str | Path):
    return ldm("generate", *arguments, "--model", model)


def complaint(result) -> str:
    """The one line that a failed command says."""
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ldm: "), result.stderr
    assert result.stdout == ""
    return lines[0]


def read_recipe(path: Path) -> Request:
    return request_from(path)[0]


def pictures(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
