"""Values of another type or beyond sense are refused by file, field and value, before anything is built."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.generation.from_picture import recipe_in
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder import autoencoder, unet
from ldm.io.folder.autoencoder import autoencoder_config
from ldm.io.folder.field_types import (
    AUTOENCODER_TYPES,
    DEFAULTS_TYPES,
    SCHEDULER_TYPES,
    TEXT_ENCODER_TYPES,
    UNET_TYPES,
    UPSCALER_TYPES,
    FieldType,
)
from ldm.io.folder.load import load_folder
from ldm.io.folder.scheduler import scheduler_settings
from ldm.io.folder.scheduler.classes import KNOWN_FIELDS
from ldm.io.folder.unet import unet_config
from ldm.io.folder.upscaler import load_upscaler
from ldm.io.metadata.foreign_recipes import foreign_recipe
from ldm.io.metadata.png import png_bytes

ODD: tuple[Any, ...] = (
    True, 1.5, float("nan"), float("inf"), -1, 10**12, 2**70, 10**400, "", "x", None,
    [], ["x"], [True], [1.5], [10**12], [[1]], [4] * 100_000, {}, {"a": 1},
)  # fmt: skip


def _scheduler(fields: dict[str, Any]) -> object:
    return scheduler_settings({"_class_name": "DDIMScheduler", **fields}, "file")


READERS: dict[str, tuple[dict[str, FieldType], Callable[[dict[str, Any]], object]]] = {
    "unet": (UNET_TYPES, lambda fields: unet_config(fields, "file")),
    "vae": (AUTOENCODER_TYPES, lambda fields: autoencoder_config({"_class_name": "VQModel", **fields}, "file")),
    "scheduler": (SCHEDULER_TYPES, _scheduler),
}


@pytest.mark.parametrize(
    ("reader", "name"), [(reader, name) for reader, (types, _) in READERS.items() for name in types]
)
def test_odd_values_are_refused_by_name(reader: str, name: str) -> None:
    types, read = READERS[reader]
    for value in ODD:
        if types[name].holds(value):
            continue
        with pytest.raises(ModelFileError, match=f"^file: {name}=") as error:
            read({name: value})
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


_EDM = {"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "prediction_type": "v_prediction"}
FOUND = [
    (lambda fields: _scheduler({**_EDM, **fields}), {"sigma_min": None}),
    (lambda fields: _scheduler({**_EDM, **fields}), {"sigma_max": None}),
    (_scheduler, {"beta_start": -0.5, "beta_schedule": "scaled_linear"}),
    (_scheduler, {"beta_end": 10**30}),
    (READERS["vae"][1], {"shift_factor": 10**30}),
    (_scheduler, {"rescale_betas_zero_snr": 1.5}),
    (_scheduler, {"steps_offset": float("nan")}),
    (_scheduler, {"clip_sample": [1]}),
    (_scheduler, {"set_alpha_to_one": ""}),
    (_scheduler, {"set_alpha_to_one": None}),
    (_scheduler, {"num_train_timesteps": 10**12}),
    (_scheduler, {"num_train_timesteps": 1000.0}),
    (_scheduler, {"_class_name": ["DDIMScheduler"]}),
    (READERS["unet"][1], {"only_cross_attention": "no"}),
    (READERS["unet"][1], {"only_cross_attention": [True]}),
    (READERS["unet"][1], {"layers_per_block": 10**12}),
    (READERS["unet"][1], {"transformer_layers_per_block": 2**70}),
    (READERS["unet"][1], {"transformer_layers_per_block": 64, "layers_per_block": 64}),
    (READERS["unet"][1], {"center_input_sample": 0}),
    (READERS["unet"][1], {"dual_cross_attention": float("nan")}),
    (READERS["unet"][1], {"use_linear_projection": "false"}),
    (READERS["vae"][1], {"layers_per_block": 10**12}),
    (READERS["vae"][1], {"layers_per_block": [1]}),
    (READERS["vae"][1], {"scaling_factor": 0}),
    (READERS["vae"][1], {"latents_mean": ["a"] * 3, "latents_std": [1.0] * 3}),
]  # fmt: skip


@pytest.mark.parametrize(("read", "fields"), FOUND)
def test_values_that_were_taken_silently(read: Callable[[dict[str, Any]], object], fields: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=f"^file: {next(iter(fields))}=") as error:
        read(fields)
    assert "\n" not in str(error.value)


def test_every_field_that_is_read_has_a_type() -> None:
    assert set(unet._UNET_DEFAULTS) == set(UNET_TYPES)
    read = {*autoencoder._AUTOENCODER_DEFAULTS, *autoencoder._VQ_DEFAULTS, *autoencoder._AUTOENCODER_REMARKS}
    assert read == set(AUTOENCODER_TYPES)
    assert set(SCHEDULER_TYPES) == KNOWN_FIELDS


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _change(file: Path, **fields: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | fields))


@pytest.mark.parametrize("name", TEXT_ENCODER_TYPES)
def test_text_encoders_too(name: str, folder: Path) -> None:
    file = folder / "text_encoder" / "config.json"
    for value in ("x" if name != "hidden_act" else 5, 10**12, None):
        if TEXT_ENCODER_TYPES[name].holds(value):
            continue
        _change(file, **{name: value})
        with pytest.raises(ModelFileError, match=re.escape(f"{file}: {name}=")):
            load_folder(folder)


def test_heads_that_do_not_divide_the_width_are_one_line(folder: Path) -> None:
    file = folder / "text_encoder" / "config.json"
    _change(file, num_attention_heads=7)
    with pytest.raises(ModelFileError, match=re.escape(f"{file}: hidden_size=")) as error:
        load_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("model_index.json", {"force_zeros_for_empty_prompt": "no"}),
        ("ldm.json", {"num_inference_steps": 10**12}),
        ("ldm.json", {"guidance_scale": float("nan")}),
        ("ldm.json", {"guidance_rescale": True}),
    ],
)
def test_the_files_of_a_whole_model(file: str, fields: dict[str, Any], folder: Path) -> None:
    _change(folder / file, **fields)
    with pytest.raises(ModelFileError, match=re.escape(f"{folder / file}: {next(iter(fields))}=")):
        load_folder(folder)
    assert set(DEFAULTS_TYPES) == {"num_inference_steps", "guidance_scale", "guidance_rescale"}


@pytest.mark.parametrize("name", UPSCALER_TYPES)
@pytest.mark.parametrize("value", [10**12, True, 2.0, None])
def test_upscalers_too(name: str, value: Any, tmp_path: Path) -> None:
    _change(tmp_path / "config.json", _class_name="Upscaler", **{name: value})
    with pytest.raises(ModelFileError, match=f"{name}="):
        load_upscaler(tmp_path)


@pytest.mark.parametrize("map_of", [[], {"a": 5}, "x", None])
def test_an_index_without_files_is_refused(map_of: Any, folder: Path) -> None:
    stem = folder / "unet" / "diffusion_pytorch_model.safetensors"
    stem.unlink()
    _change(folder / "unet" / f"{stem.name}.index.json", weight_map=map_of)
    with pytest.raises(ModelFileError, match="weight_map is not an object of file names"):
        load_folder(folder)


@pytest.mark.parametrize("depth", [900, 1_000, 100_000])
def test_json_that_is_nested_deep_is_one_line(depth: int, folder: Path) -> None:
    deep = "[" * depth + "]" * depth
    for part in ("unet", "vae", "text_encoder"):
        file = folder / part / "config.json"
        whole = file.read_text()
        file.write_text(f'{{"in_channels": {deep}, "hidden_size": {deep}}}')
        with pytest.raises(ModelFileError, match=re.escape(str(file))) as error:
            load_folder(folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000
        file.write_text(whole)


@pytest.mark.parametrize("depth", [900, 1_000, 100_000])
@pytest.mark.parametrize("field", ["prompt", "loras", "unheard_of"])
def test_recipes_that_are_nested_deep_are_one_line(depth: int, field: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(Image.new("RGB", (8, 8)), None, f'{{"{field}": {"[" * depth}{"]" * depth}}}'))
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        recipe_in(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keyword", ["invokeai_metadata", "prompt"])
@pytest.mark.parametrize("value", ["[" * 900 + "]" * 900, "[" * 990 + "]" * 990, "9" * 5000])
def test_recipes_of_other_tools_are_never_an_error(keyword: str, value: str) -> None:
    node = f'{{"class_type": "KSampler", "inputs": {{"steps": 1, "positive": ["2", 0], "odd": {value}}}}}'
    text = f'{{"1": {node}}}' if keyword == "prompt" else f'{{"steps": 3, "odd": {value}}}'
    foreign_recipe({keyword: text})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no fifos")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "endless", "folder"):
        with pytest.raises(ModelFileError, match=re.escape(f"{tmp_path / name} is no file")):
            read_json(tmp_path / name)


def test_what_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match=r"is of 1\.1 TB, not a model's JSON"):
        read_json(tmp_path / "large")


def test_whole_numbers_that_python_does_not_read_are_damage(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"in_channels": ' + "9" * 5000 + "}")
    with pytest.raises(ModelFileError, match="is not valid JSON"):
        read_json(tmp_path / "x.json")
