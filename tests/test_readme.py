"""The examples of README and docs run: Python blocks, and every `ldm` line that needs nothing but the shipped model."""

import re
import shlex

import pytest
import torch
from checkout import ROOT

from ldm.cli import app
from ldm.generation.from_picture import recipe_in, request_from
from ldm.samplers import SAMPLER_TABLE, SAMPLERS
from ldm.schedules import SCHEDULES

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("ldm/models/*/README.md")])
_README = (ROOT / "README.md").read_text()


def _blocks(language: str, section: str) -> list[str]:
    text = re.search(rf"^## {section}$(.*?)(?=^## )", _README, re.M | re.S)
    assert text, f"the README has no section {section}"
    return re.findall(rf"```{language}\n(.*?)```", text[1], re.S)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = _blocks("python", "From Python")
    exec(compile(code, "README.md", "exec"), {})
    assert recipe_in(tmp_path / "apple.png").prompt == "a red apple, 3d style"
    again, unused = request_from(tmp_path / "fox.png")
    assert (again.prompt, again.seed, unused) == ("a fox", 1, [])


@pytest.mark.slow
def test_the_command_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (lines,) = _blocks("sh", "From the command line")
    assert _run(lines, capsys) >= 4
    assert list((tmp_path / "pictures").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["samplers", "guidance", "prompts", "grids", "tasks"])
def test_the_examples_of_the_docs_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert sum(_run(lines, capsys) for lines in re.findall(r"```sh\n(.*?)```", text, re.S)) >= 3
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(code, f"{page}.md", "exec"), {})


@pytest.mark.slow
def test_the_page_of_equations_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    notebook: dict = {}
    try:
        for number, code in enumerate(blocks):
            exec(compile(code, f"python.md, block {number}", "exec"), notebook)
    finally:
        torch.set_grad_enabled(True)
    assert len(blocks) >= 10 and recipe_in(tmp_path / "apple.png").seed == 0


def _run(lines: str, capsys) -> int:
    """Run command lines; returns how many."""
    commands = [shlex.split(line, comments=True) for line in lines.splitlines() if line.strip()]
    for program, *arguments in commands:
        assert program == "ldm"
        with pytest.raises(SystemExit) as end:
            app(arguments)
        assert end.value.code == 0, (arguments, capsys.readouterr().err)
    return len(commands)


def test_the_table_of_samplers_says_what_the_code_says():
    text = (ROOT / "docs" / "samplers.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d) \| (\d) \| (none|same|fresh) \|.*\| (.*) \|$", text, re.M)
    assert [row[0] for row in rows] == list(SAMPLERS)
    for name, order, calls, noise, advice in rows:
        about = SAMPLER_TABLE[name]
        assert (int(order), int(calls), noise, advice) == (about.order, about.calls, about.noise, about.advice)


def test_the_readme_counts_samplers_and_schedules():
    counted = re.search(r"There are (\d+) samplers and (\d+) schedules", _README)
    assert counted and (int(counted[1]), int(counted[2])) == (len(SAMPLERS), len(SCHEDULES))
    page = (ROOT / "docs" / "samplers.md").read_text().partition("## Schedules")[2]
    rows = re.findall(r"^\| `.*$", page, re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) >= set(SCHEDULES)


def test_the_folders_of_the_architecture_table_exist():
    table = re.search(r"^## How it is built$(.*?)(?=^## )", _README, re.M | re.S)
    assert table
    named = re.findall(r"`((?:ldm|autoencoder|conditioning|train_ldm)[\w/.]*)`", table[1])
    assert len(named) > 12
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], heading
