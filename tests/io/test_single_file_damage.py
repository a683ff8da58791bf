"""Damaged and hostile files: an error with the file's name, never a crash, a half-loaded model, or code that runs."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from single_files import State, disk_names, file_vae, make_text, prefixed, unet_part

from ldm.families.parts import ModelParts
from ldm.io.disk.files import ModelFileError
from ldm.io.single_file.load import load_single_file

MUTATIONS = 2000


def small_state() -> State:
    """A whole SD 1 of one level, in fp16."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=64,
    )
    vae = AutoencoderKL(
        block_out_channels=(32,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    state = prefixed("model.diffusion_model.", unet_part("sd1", unet))
    state |= prefixed("first_stage_model.", file_vae(dict(vae.state_dict()), 1))
    state |= prefixed("cond_stage_model.transformer.", disk_names(make_text(1)))
    return {name: value.detach().half().contiguous() for name, value in state.items()}


def cpu_state_dict(parts: ModelParts) -> State:
    found = {}
    for part in ("text", "unet", "autoencoder"):
        network: Any = getattr(parts, part)
        found |= {f"{part}.{name}": value for name, value in network.state_dict().items()}
    return found


def same_model(parts: ModelParts, expected: State, but: int = 0) -> bool:
    """Whether all numbers are there and the same, but for so many weights."""
    found = cpu_state_dict(parts)
    assert found.keys() == expected.keys()
    assert all(value.device.type == "cpu" and value.shape == expected[name].shape for name, value in found.items())
    return sum(not torch.equal(value, expected[name]) for name, value in found.items()) <= but


def truncated(content: bytes, header: int, draw: random.Random) -> bytes:
    return content[: draw.choice([draw.randrange(1, 200), draw.randrange(len(content)), len(content) - 1])]


def header_bit(content: bytes, header: int, draw: random.Random) -> bytes:
    place = draw.randrange(8 + header)
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def data_bit(content: bytes, header: int, draw: random.Random) -> bytes:
    place = draw.randrange(8 + header, len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def header_length(content: bytes, header: int, draw: random.Random) -> bytes:
    length = draw.choice([0, 1, header - 1, header + 1, len(content), 100_000_001, 2**40, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + content[8:]


def entry(content: bytes, header: int, draw: random.Random) -> bytes:
    """One tensor with another shape, type, place or name."""
    entries = json.loads(content[8 : 8 + header])
    name = draw.choice([name for name in entries if len(entries[name].get("shape", ())) > 1])
    one = entries[name]
    what = draw.choice(["shape", "dtype", "data_offsets", "name", "lost", "flat", "swap"])
    if what == "shape":
        one["shape"] = draw.choice([[], [0], [-1], [2**62, 4], [*one["shape"], 1], [one["shape"][0] * 2], "x", None])
    elif what == "flat":
        one["shape"] = [int(torch.Size(one["shape"]).numel())]
    elif what == "dtype":
        one["dtype"] = draw.choice(["F64", "F32", "I16", "I8", "BOOL", "F4", "", None, 7])
    elif what == "data_offsets":
        one["data_offsets"] = draw.choice([[0, 0], [0, 2**63], [5], [one["data_offsets"][1], 0], [-2, 4], None])
    elif what == "name":
        entries[name + draw.choice([".", "x", ".weight", "é"])] = entries.pop(name)
    elif what == "lost":
        entries.pop(name)
    else:
        others = [other for other in entries if entries[other].get("shape", one["shape"]) != one["shape"]]
        other = draw.choice(others)  # of one shape they could change places, and no file could tell
        entries[name], entries[other] = entries[other], entries[name]
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + header :]


KINDS: dict[Callable[[bytes, int, random.Random], bytes], int] = {
    truncated: 500,
    header_bit: 650,
    header_length: 200,
    entry: 599,
    data_bit: 50,
}


@pytest.mark.slow
def test_no_mutation_of_a_file_crashes_or_gives_half_a_model(tmp_path: Path) -> None:
    state = small_state()
    path = tmp_path / "model.safetensors"
    save_file(state, path, {"format": "pt", "modelspec.title": "tiny"})
    content = path.read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    expected = {
        name: value.clone() for name, value in cpu_state_dict(load_single_file(path, dtype=torch.float16)).items()
    }
    tried, messages = 1, {}
    path.unlink()
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"model\.safetensors is truncated: it is empty"):
        load_single_file(path)
    for kind, times in KINDS.items():
        for seed in range(times):
            mutated = kind(content, header, random.Random(f"{kind.__name__} {seed}"))
            path.unlink()  # a mapped file is never written over
            path.write_bytes(mutated)
            tried += 1
            try:
                parts = load_single_file(path, dtype=torch.float16)
            except ModelFileError as error:
                messages[kind.__name__, seed] = str(error)
                continue
            assert same_model(parts, expected, but=kind is data_bit), (kind.__name__, seed)
    assert tried == MUTATIONS and len(messages) >= 1700
    bad = {where: text for where, text in messages.items() if path.name not in text or len(text.splitlines()) != 1}
    assert not bad


def test_no_mutation_of_a_pickle_crashes(tmp_path: Path) -> None:
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), "x": torch.zeros(3)}
    for zipped in (True, False):
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": weights, "epoch": 1}, path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        draw = random.Random(0)
        for _ in range(150):
            mutated = bytearray(content)
            mutated[draw.randrange(len(mutated))] ^= 1 << draw.randrange(8)
            path.unlink()
            path.write_bytes(bytes(mutated)[: draw.choice([len(mutated), draw.randrange(1, len(mutated))])])
            with pytest.raises(ModelFileError, match=r"model\.ckpt"):
                load_single_file(path)


class Payload:
    """Writes a file if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(tmp_path: Path, name: str, zipped: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / name
    content = {"state_dict": {"a": torch.zeros(2)}, "callbacks": Payload(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match=rf"{name} asks to run posix\.system .*get the \.safetensors") as caught:
        load_single_file(path)
    assert not mark.exists() and len(str(caught.value).splitlines()) == 1


def test_what_lightning_left_in_the_first_checkpoints_is_harmless(tmp_path: Path, monkeypatch: Any) -> None:
    import sys
    import types

    import numpy as np

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__)
    with monkeypatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, module)
        module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
        callbacks = {module.ModelCheckpoint: {"best_model_score": np.float64(0.1)}}
        torch.save({"state_dict": small_state(), "callbacks": callbacks}, tmp_path / "sd-v1-4.ckpt")
    assert load_single_file(tmp_path / "sd-v1-4.ckpt").prediction_type == "epsilon"
