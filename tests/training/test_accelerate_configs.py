"""accelerate's own parser and launcher understand the shipped configurations and set the environment."""

import os

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import (
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from checkout import CONFIGS

from ldm.training.distributed.processes import init_processes, make_accelerator

_FOLDER = CONFIGS / "accelerate"
_NAMES = ["1-gpu", "4-nodes", "8-gpus", "cpu", "fsdp2", "fsdp2-zero2"]


def _arguments(name: str):
    """What `accelerate launch --config_file ... train_ldm.py` makes of a file."""
    parsed = launch_command_parser().parse_args(["--config_file", str(_FOLDER / f"{name}.yaml"), "train_ldm.py"])
    return _validate_launch_command(parsed)[0]


def test_every_file_is_tested():
    assert sorted(path.stem for path in _FOLDER.iterdir()) == _NAMES


@pytest.mark.parametrize("name", _NAMES)
def test_all_keys_are_accelerates(name):
    config = load_config_from_file(str(_FOLDER / f"{name}.yaml"))  # refuses unknown keys, but not those inside
    known = vars(launch_command_parser().parse_args(["train_ldm.py"]))
    assert set(config.fsdp_config) <= set(known)


def test_wrong_key_is_noticed(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((_FOLDER / "8-gpus.yaml").read_text() + "number_of_processes: 8\n")
    with pytest.raises(ValueError, match="unknown keys"):
        load_config_from_file(str(wrong))


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("8-gpus", 8, 1), ("4-nodes", 32, 4), ("fsdp2", 8, 1), ("fsdp2-zero2", 8, 1)]
)
def test_several_gpus_are_launched_as_configured(name, processes, machines):
    arguments = _arguments(name)
    assert arguments.multi_gpu != arguments.use_fsdp, "neither replicas nor parts, or both"
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.num_processes, arguments.num_machines) == (processes, machines)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert environment.get("ACCELERATE_USE_FSDP", "false") == str(arguments.use_fsdp).lower()


@pytest.mark.parametrize(("name", "reshard"), [("fsdp2", True), ("fsdp2-zero2", False)])
def test_sharding_reaches_the_training(name, reshard, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, **prepare_multi_gpu_env(_arguments(name))})
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, reshard)
    assert not plugin.activation_checkpointing


def test_deepspeed_is_refused_in_one_line_that_names_another_file(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for start in (init_processes, lambda: make_accelerator("no")):
        with pytest.raises(ValueError, match=r"DeepSpeed.*configs/accelerate/fsdp2-zero2\.yaml") as error:
            start()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "cpu"), [("cpu", "True"), ("1-gpu", "False")])
def test_one_process_is_launched_as_itself(name, cpu):
    arguments = _arguments(name)
    assert not (arguments.multi_gpu or arguments.use_fsdp or arguments.use_deepspeed)
    command, environment = prepare_simple_launcher_cmd_env(arguments)
    assert command[-1] == "train_ldm.py" and environment["ACCELERATE_USE_CPU"] == cpu
