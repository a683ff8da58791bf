"""Reading a training from YAML: what is unknown or was renamed is named in one line."""

import re
from pathlib import Path

import pytest

from ldm.training.stages.config_file import load_run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: ldm\nloop: {player_lr: 2.0}", "unknown setting loop.player_lr; it is called loop.lr_multiplier now"),
        ("task: sketch", "task='sketch'; it is called image_tokens now"),
        ("task: image_tokens\nsketch: {cells: 4}", "unknown setting sketch; it is called image_tokens now"),
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
