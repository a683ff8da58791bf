"""Reading a training from YAML: what is unknown or was renamed is named in one line."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from checkout import CONFIGS, ROOT

from ldm.training.stages.config_file import _FORMER, load_run
from ldm.training.stages.image_tokens import ImageTokenRun
from ldm.training.stages.shipped_configs import FORMER_CONFIGS, find_config, shipped_configs
from ldm.training.stages.table import STAGES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: ldm\nloop: {player_lr: 2.0}", "unknown setting loop.player_lr; it is called loop.lr_multiplier now"),
        ("task: sketch", "task='sketch'; it is called image_tokens now"),
        ("task: image_tokens\nsketch: {cells: 4}", "unknown setting sketch; it is called image_tokens now"),
        (
            "task: upscaler",
            "task='upscaler'; restorer took its place, which enlarges too: task: restorer, as in configs/restorer.yaml",
        ),
        ("task: restorer\nupscaler: {width: 4}", "unknown setting upscaler; that stage is no more; task: restorer"),
        ("task: ldn", "task='ldn'; did you mean 'ldm'"),
        ("task: ldm\nloop: {tensorboard: true}", "unknown setting loop.tensorboard; known: "),
        ("task: ldm\nloop: {batchsize: 4}", "unknown setting loop.batchsize; did you mean 'batch_size'"),
        ("task: ldm\nexport_dtype: fp8", "unknown export_dtype 'fp8'; did you mean"),
    ],
)
def test_unknown_and_renamed_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"output: x\n{text}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        load_run(file)


@pytest.mark.parametrize("name", ["upscaler", "configs/upscaler.yaml"])
def test_a_config_that_was_taken_out_names_the_one_that_took_its_place(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("restorer took its place, which enlarges too: ldm train ")):
        find_config(name)


def test_former_names_are_free_and_the_new_ones_exist() -> None:
    assert not set(STAGES) & set(_FORMER["task"]) and not set(shipped_configs()) & set(FORMER_CONFIGS)
    new = set(STAGES) | {"loop.lr_multiplier"}
    assert all(
        any(name in hint for name in new) for hints in (*_FORMER.values(), FORMER_CONFIGS) for hint in hints.values()
    )
    assert find_config("restorer").read_text().count("task: restorer") == 1


def test_nothing_behind_an_equals_sign_is_an_empty_text():
    run = load_run(CONFIGS / "emoji" / "image_tokens.yaml", ["text=", "initial=emoji"])
    assert isinstance(run, ImageTokenRun) and (run.text, run.initial) == ("", "emoji")
    with pytest.raises(ValueError, match="text: there is no text tower to train"):
        replace(run, initial="").networks()


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_can_be_read(name: str) -> None:
    assert load_run(name).output.startswith("runs/")


def test_the_stages_of_the_shipped_model_find_what_those_before_them_left() -> None:
    """The commands of docs/training.md, in their order."""
    text = (ROOT / "docs" / "training.md").read_text()
    block = re.search(r"## The shipped model again.*?```sh\n(.*?)```", text, re.S)
    assert block is not None
    commands = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    made: set[str] = set()
    for _, config, *settings in (words[2:] for words in commands if words[:2] == ["accelerate", "launch"]):
        run = load_run(ROOT / config, settings)
        named = [getattr(run, name, None) for name in ("autoencoder", "text", "initial")]
        assert {path for path in named if isinstance(path, str) and path.startswith("runs/")} <= made, config
        made.add(f"{run.output}/export")
    assert len(made) == len(list((CONFIGS / "emoji").glob("*.yaml"))) + 1  # finer.yaml twice
