"""What people type first: other tools' words, version, help, prompts from files, and quiet runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from checkout import ROOT
from typer.testing import CliRunner

import ldm as package
from ldm.cli import app
from ldm.generation.from_picture import request_from
from ldm.generation.request import Request
from ldm.generation.resolve import check_settings
from ldm.io.disk.installed import installed_folder

QUICK = ["--steps", "1", "--seed", "5"]
SHORT_HELP = ("-h", "--help")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ldm(*arguments: str | Path, stdin: str | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def complaint(result: Any) -> str:
    assert result.exit_code == 2 and result.stdout == "", result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def leaves(command: Any, path: tuple[str, ...] = ("ldm",)):
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, each in command.commands.items():
        yield from leaves(each, (*path, name))


DOCS = installed_folder("docs", "doc/ldm")
LEAVES = dict(leaves(typer.main.get_command(app)))


def test_version() -> None:
    assert ldm("--version").stdout == f"ldm {package.__version__}\n"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_help_ends_with_an_example_that_the_command_understands(path: tuple[str, ...]) -> None:
    import shlex

    first, second = (ldm(*path[1:], flag) for flag in SHORT_HELP)
    assert first.exit_code == 0 and first.stdout == second.stdout
    example = LEAVES[path].epilog.splitlines()[0]
    assert example in " ".join(first.stdout.split())
    program, *words = shlex.split(example.removeprefix("Example: "))
    own = [name for name in path[1:] if name != "run"]  # which may be left out
    own = ["eval", "restore"] if own == ["eval-restore"] else own  # two words for whoever types them
    assert program == "ldm" and words[: len(own)] == own
    LEAVES[path].make_context(path[-1], words[len(own) :])  # raises for what it does not know


def test_help_lists_options_in_groups() -> None:
    lines = ldm("generate", "--help").stdout.splitlines()
    titles = [line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Arguments",
        "Options",
        "Picture",
        "Larger pictures",
        "Model",
        "Prompt",
        "Methods",
        "Single files",
    ]
    assert lines.index("Model:") < next(i for i, line in enumerate(lines) if "--lora" in line) < lines.index("Prompt:")


def test_pages_that_help_names_are_there() -> None:
    text = ldm("generate", "--help").stdout
    assert str(DOCS) in text.replace("\n", "").replace(" ", "") or str(DOCS) in text
    for page in ("prompts.md", "guidance.md", "samplers.md"):
        assert page in text and (DOCS / page).is_file()
    assert '"share/doc/ldm" = ["docs/*.md"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["txt2img", "x"], "ldm generate"),
        (["img2img", "x"], "ldm edit IMAGE PROMPT --strength"),
        (["ui"], "ldm generate"),
        (["generate", "x", "--init-image", "a.png"], "with ldm edit, ldm inpaint or ldm outpaint IMAGE PROMPT"),
        (["generate", "x", "--mask", "a.png"], "--region"),
        (["generate", "x", "--guidance-scale", "3"], "it is --cfg-scale"),
        (["generat"], "Did you mean 'generate'"),
        (["generate", "x", "--prompts", "none.txt"], "none.txt"),
        (["generate", "x", "--sampler", "euler", "--sampler-option", "etta=1"], "no option 'etta'"),
        (["generate", "x", "--guidance", "pag=1"], "unknown guidance option 'pag'"),
        (["generate", "x", "--schedule", "karras", "--schedule-option", "roh=1"], "did you mean 'rho'"),
    ],
)
def test_other_tools_words_and_wrong_options_are_one_line(arguments: list[str], message: str, monkeypatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("ldm.generation.opened_model.load_folder", never)
    result = ldm(*arguments)
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1 and result.exit_code in (1, 2)


def test_a_missing_lora_is_named_before_the_model_is_loaded(monkeypatch) -> None:
    monkeypatch.setattr("ldm.generation.opened_model.load_folder", None)
    result = ldm("generate", "x", "--lora", "ink.safetensors=0.5")
    assert result.exit_code == 1 and "ink.safetensors does not exist" in result.stderr


def test_loras_and_embeddings_may_be_named_as_the_library_has_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    for kind, given in (("loras", {"ink": 1.0}), ("embeddings", {"ink": "ink"})):
        with pytest.raises(FileNotFoundError, match="ink does not exist"):
            check_settings(Request(**{kind: given}))
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "ink.safetensors").touch()
        check_settings(Request(**{kind: given}))


def drawn(folder: Path) -> dict[str, Any]:
    return {path.name: request_from(path)[0] for path in sorted(folder.glob("*.png"))}


def test_prompts_come_from_stdin_and_files(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("ein Äpfelchen\n\n  sea \n", encoding="utf-8")
    result = ldm(
        "generate", "-", "--prompts", "list.txt", *QUICK, "--model", tiny_folder, "-o", "out", stdin="apple\n\n"
    )
    assert result.exit_code == 0, result.output
    assert [(each.prompt, each.seed) for each in drawn(tmp_path / "out").values()] == [
        ("apple", 5), ("ein Äpfelchen", 6), ("sea", 7)
    ]  # fmt: skip
    assert "PROMPT is missing or empty" in complaint(ldm("generate", "-", "--model", tiny_folder, stdin="\n"))
    (tmp_path / "latin.txt").write_bytes(b"\xe4pfel\n")
    assert "latin.txt is not valid UTF-8" in complaint(ldm("generate", "--prompts", "latin.txt"))


def test_every_prompt_may_have_the_same_seed(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--same-seed", "--n", "2", *QUICK, "--model", tiny_folder, "--batch-size", "3"]
    assert ldm("generate", "apple", "sea", *options, "-o", "out").exit_code == 0
    seeds = {(each.prompt, each.seed) for name, each in drawn(tmp_path / "out").items() if "grid" not in name}
    assert seeds == {("apple", 5), ("apple", 6), ("sea", 5), ("sea", 6)}
    assert ldm("generate", "apple", "sea", *options[:1], *QUICK, "--model", tiny_folder, "-o", "x.png").exit_code == 0
    assert {name: each.prompt for name, each in drawn(tmp_path).items()} == {"x-5.png": "apple", "x-5-2.png": "sea"}


def test_a_quiet_run_says_nothing_but_errors(tiny_folder: Path, tmp_path: Path) -> None:
    result = ldm("generate", "apple", "-q", "--cfg", "3", *QUICK, "--model", tiny_folder, "-o", "x.png")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert request_from(tmp_path / "x.png")[0].guidance_scale == 3
    assert "unknown sampler" in complaint(ldm("generate", "apple", "--quiet", "--sampler", "x"))


def test_loading_is_said_to_a_person_who_waits(monkeypatch, capsys) -> None:
    from ldm.cli.report import Report

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for as_json, quiet in ((False, False), (True, False), (False, True)):
        Report(as_json, quiet).loading("emoji")
    assert capsys.readouterr().err == "loading emoji...\n"


def test_inspect_shows_no_empty_fields(tiny_folder: Path) -> None:
    assert ldm("generate", "apple", *QUICK, "--model", tiny_folder, "-o", "x.png").exit_code == 0
    lines = ldm("inspect", "x.png").stdout.splitlines()
    assert all(len(line.split()) > 1 and line.split()[1] not in ("None", "{}", "()", "[]") for line in lines)
    assert (
        any(line.split() == ["prompt", "apple"] for line in lines)
        and '"loras": {}' in ldm("inspect", "x.png", "--json").stdout
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_installs_and_completes_without_torch(shell: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ldm.cli import app\n"
        "try:\n    app(sys.argv[1:], prog_name='ldm')\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }

    def run(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment | more
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "completion installed" in run("--install-completion", shell)
    assert any("_LDM_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    words = {
        "COMP_WORDS": "ldm gen",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "ldm gen",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert "generate" in run(_LDM_COMPLETE=f"complete_{shell}", **words)


def test_what_needs_no_network_is_said_without_torch(tiny_folder: Path, tmp_path: Path) -> None:
    """torch is seconds of every command that imports it."""
    assert ldm("generate", "apple", *QUICK, "--model", tiny_folder, "-o", "x.png").exit_code == 0
    commands = [
        ["recipes", "list"],
        ["recipes", "show", "emoji/ldm"],
        ["train", "own_picture"],
        ["train", "plan", "own_picture"],
        *(["models", "list"], ["loras", "list"], ["embeddings", "list"], ["samplers", "list"], ["schedules", "list"]),
        ["inspect", "x.png"],
    ]
    code = (
        "import sys\nfrom contextlib import suppress\nfrom ldm.cli import app\n"
        f"for words in {commands!r}:\n    with suppress(SystemExit):\n        app(words, prog_name='ldm')\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LDM_HOME": str(tmp_path / "none")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("did you mean 'own_pictures'") == 2 and "own_pictures " in done.stdout
    assert {("prompt", "apple"), ("emoji", "shipped")} <= {tuple(line.split()[:2]) for line in done.stdout.splitlines()}
