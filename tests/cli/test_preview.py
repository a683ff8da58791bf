"""`--preview` and `--show`: files that come and go whole, and pictures on terminals alone."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from task_models import picture
from typer.testing import CliRunner

import ldm.cli.preview as module
from ldm.cli import app
from ldm.cli.preview import Previews
from ldm.cli.progress import StepBar
from ldm.cli.report import Report
from ldm.cli.terminal_picture import picture_text

REPORT = Report(as_json=False, quiet=False)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(model: Path, *arguments: str):
    return CliRunner().invoke(app, ["generate", "apple", "--model", str(model), "--seed", "3", *arguments])


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str], tuple[int, int]]]:
    """(steps done, previews that are there, size of the first one) after each step of the next drawings."""
    seen: list[tuple[int, list[str], tuple[int, int]]] = []
    own = Previews.step

    def step(self: Previews, step: Any, *rest: Any) -> None:
        own(self, step, *rest)
        there = sorted(str(path) for path in Path().rglob("*.preview.png"))
        seen.append((step.index + 1, there, Image.open(there[0]).size if there else (0, 0)))

    monkeypatch.setattr(Previews, "step", step)
    return seen


def test_previews_come_every_few_steps_and_go_at_the_end(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    result = generate(tiny_folder, "--steps", "6", "--preview", "every=2", "--n", "2", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    both = ["outputs/apple-3.preview.png", "outputs/apple-4.preview.png"]
    assert [entry for entry in seen if entry[0] == 1] == [(1, [], (0, 0))]
    assert [entry[1:] for entry in seen if entry[0] >= 2] == [(both, (32, 32))] * 5
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["apple-3-grid.png", "apple-3.png", "apple-4.png"]
    plain = Path("outputs/apple-3.png").read_bytes()
    assert generate(tiny_folder, "--steps", "6", "--n", "2", "--batch-size", "2", "-o", "plain").exit_code == 0
    assert Path("plain/apple-3.png").read_bytes() == plain


def test_a_named_file_has_its_preview_beside_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    assert generate(tiny_folder, "--steps", "3", "--preview", "1", "-o", "x.png").exit_code == 0
    assert {name for _, names, _ in seen for name in names} == {"x.preview.png"}
    assert [path.name for path in Path().iterdir()] == ["x.png"]


@pytest.mark.parametrize("command", ["edit", "outpaint"])
def test_pictures_that_are_put_in_have_previews_too(
    command: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch)
    Image.fromarray(picture(33, 21)).save("in.png")
    sides = ("--right", "11") if command == "outpaint" else ()
    arguments = (command, "in.png", "apple", "--model", str(tiny_folder), "--seed", "3", "--steps", "3", *sides)
    result = CliRunner().invoke(app, [*arguments, "--preview", "1", "-o", "x.png"])
    assert result.exit_code == 0, result.output
    assert {name for _, names, _ in seen for name in names} == {"x.preview.png"}
    assert sorted(path.name for path in Path().iterdir()) == ["in.png", "x.png"]


def test_previews_go_when_the_drawing_breaks_off(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, there = Previews.step, []

    def stop(self: Previews, step: Any, *rest: Any) -> None:
        own(self, step, *rest)
        if step.index == 2:
            there.extend(Path().rglob("*.preview.png"))
            raise KeyboardInterrupt

    monkeypatch.setattr(Previews, "step", stop)
    assert generate(tiny_folder, "--steps", "5", "--preview", "every=1").exit_code == 130
    assert len(there) == 1 and not list(Path().rglob("*.preview.png"))


@pytest.mark.parametrize("option", ["0", "every=0", "often", "every=", "-1", ""])
def test_what_is_no_number_of_steps_is_named(option: str) -> None:
    with pytest.raises(ValueError, match=f"--preview {option} is not possible; write --preview every=5"):
        Previews.of(option, False, REPORT)
    assert Previews.of("every=5", False, REPORT)._every == Previews.of("5", False, REPORT)._every == 5


def test_nothing_is_shown_where_there_is_no_terminal(tiny_folder: Path) -> None:
    result = generate(tiny_folder, "--steps", "2", "--show", "--preview", "1")
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "▀" not in result.output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("protocol", ["kitty", "iterm", "sixel", "blocks"])
def test_previews_and_finished_pictures_are_shown(
    protocol: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(module, "_terminal", lambda: (terminal, protocol))
    assert generate(tiny_folder, "--steps", "5", "--show", "--preview", "every=2").exit_code == 0
    shown = terminal.getvalue()
    final = picture_text(Image.open("outputs/apple-3.png"), protocol)
    assert shown.endswith(final)
    assert shown.count(final[:12]) >= 3  # two previews before it
    terminal.truncate(0)
    assert generate(tiny_folder, "--steps", "2", "--show", "--json").exit_code == 0 and not terminal.getvalue()


def test_the_bar_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    with StepBar(3, hidden=True) as bar:
        bar.advance(1, 3)
        bar.above(stream, "picture\n")
    assert stream.getvalue() == "picture\n"
    with StepBar(3, hidden=False) as bar:
        bar.advance(1, 3)
        bar.above(stream, "again\n")
        bar.advance(2, 3)
    assert stream.getvalue() == "picture\nagain\n"


def test_stdout_is_the_terminal_before_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    for name in ("TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    terminal, file = Terminal(), io.StringIO()
    for out, err, stream, protocol in (
        (terminal, file, terminal, "kitty"),
        (file, terminal, terminal, "kitty"),
        (file, file, file, None),
    ):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        found = module._terminal()
        assert found == (stream, protocol)
