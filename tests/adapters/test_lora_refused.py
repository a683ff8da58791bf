"""Adapter files that are refused: nothing in them runs, nothing half loads, and the file is named."""

import os
import random
from pathlib import Path

import pytest
import torch
from adapters import PROJ, STEM, kohya, mixed, tiny_unet
from torch import Tensor

from ldm.adapters.lora.adapter_set import LoraSet
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.load import load_lora
from ldm.io.lora.read import read_lora
from ldm.io.lora.write import save_lora


class Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["LDM_TEST_PAYLOAD"],)


@pytest.mark.parametrize("legacy", [False, True])
def test_payload_in_a_pickle_never_runs(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_TEST_PAYLOAD", str(tmp_path / "ran"))
    content = {"lora_unet_conv_in.lora_down.weight": torch.ones(2, 2), "x": Payload()}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelFileError,
        match=r"x.pt is a pickle of more than tensors.* run \S+\.mkdir .*; ask for the LoRA as .safetensors",
    ):
        load_lora(LoraSet(tiny_unet()), tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 9, b"PK\x03\x04", b"\x80\x02.", b"<html>not found</html>"]
)
def test_files_that_are_something_else_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{name} ") as error:
        read_lora(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("oft_blocks", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("lora_up.bias", "biases"),
        ("bias_indices", "biases"),
        ("lora_embedding_A", "embeddings"),
    ],
)
def test_other_kinds_are_refused_by_name(key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=rf"x.safetensors: {STEM}.{key} is .*{message}"):
        read_lora(kohya(tmp_path / "x.safetensors", {f"{STEM}.{key}": torch.ones(2, 2)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{STEM}.lora_up.weight": None}, f"{STEM} is incomplete, it has only alpha, down"),
        ({f"{STEM}.hada_w1_a": torch.ones(2, 2)}, "is incomplete, it has only alpha, down, hada_w1_a, up"),
        ({f"{STEM}.alpha": torch.tensor(float("nan"))}, "alpha is no single finite number"),
        ({f"{STEM}.alpha": torch.ones(2)}, "alpha is no single finite number"),
        ({f"{STEM}.lora_up.weight": torch.ones(16, 2).to(torch.int32)}, "lora_up.weight is int32, which"),
        ({f"{STEM}.dora_scale": torch.ones(4, 1)}, r"4 magnitudes for a weight of \(16, 16, 1, 1\)"),
        ({f"{STEM}.dora_scale": torch.full((16, 1), torch.nan)}, "holds numbers that are not finite"),
        ({f"{STEM}.diff": torch.ones(16, 16)}, f"{STEM} is incomplete, it has only alpha, diff, down, up"),
        ({f"{STEM}.diff_b": torch.ones(4)}, r"changes a weight of \(4,\), but this model's is \(16,\)"),
        (
            {f"{STEM.replace('proj_in', 'transformer_blocks_0_attn1_to_q')}.diff_b": torch.ones(16)},
            r"to_q.bias have no place in this model \(1 of 2 matched\)",
        ),
        ({f"{STEM}.lora_up.weight": torch.ones(16)}, r"has shape \(16,\), which no factor"),
        ({f"{STEM}.lora_up.weight": torch.ones(16, 0)}, r"has shape \(16, 0\), which no factor"),
        ({f"{STEM}.lora_up.weight": torch.full((16, 2), torch.inf)}, "holds numbers that are not finite"),
        ({f"{STEM}.lora_B.weight": torch.ones(16, 2)}, "is there under two names"),
        (
            {key: None for key in (f"{STEM}.lora_down.weight", f"{STEM}.lora_up.weight", f"{STEM}.alpha")}
            | {"a": torch.ones(1)},
            "holds no LoRA .its first tensor is a",
        ),
        ({f"{STEM}.lora_up.weight": torch.ones(16, 3)}, "factors do not fit each other"),
        (
            {f"{STEM}.lora_up.weight": torch.ones(8, 2)},
            r"a weight of \(8, 16, 1, 1\), but this model's is \(16, 16, 1, 1\)",
        ),
        ({f"unet.{STEM[10:]}".replace("_", ".") + ".x": torch.ones(1)}, r"1 of 2 matched"),
        (
            {
                "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2),
                "lora_unet_nowhere.lora_up.weight": torch.ones(2, 2),
            },
            r"lora_unet_nowhere have no place in this model \(1 of 2 matched\).*--allow-unmatched. leaves",
        ),
        (
            {f"{PROJ}.lora_A.weight": torch.ones(2, 16), f"{PROJ}.lora_B.weight": torch.ones(16, 2)},
            "the same layer of the model under two names",
        ),
    ],
)
def test_broken_layers_are_named_and_leave_the_model(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    unet = tiny_unet()
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    loras = LoraSet(unet)
    with pytest.raises(ModelFileError, match=message) as error:
        load_lora(loras, kohya(tmp_path / "x.safetensors", change))
    assert "x.safetensors" in str(error.value) and "\n" not in str(error.value)
    assert loras.weights == {} and all(torch.equal(v, state[k]) for k, v in unet.state_dict().items())


def test_damaged_files_are_named_and_leave_the_model(tmp_path: Path) -> None:
    """300 seeded mutations: cut, bits turned, bytes put in, headers changed. Each is refused, or still a LoRA."""
    unet = tiny_unet()
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    save_lora(tmp_path / "good.safetensors", mixed())
    good = (tmp_path / "good.safetensors").read_bytes()
    header = int.from_bytes(good[:8], "little") + 8
    loras = LoraSet(unet)
    path, chance, messages = tmp_path / "x.safetensors", random.Random(0), []
    for i in range(300):
        data = bytearray(good)
        if i % 4 == 0:
            del data[chance.randrange(len(data)) :]
        elif i % 4 == 1:
            data[chance.randrange(header)] ^= 1 << chance.randrange(8)
        elif i % 4 == 2:
            at = chance.randrange(header)
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            data[:8] = chance.choice([0, 7, 2**31, 2**63, 2**64 - 1, header - 9]).to_bytes(8, "little")
        path.write_bytes(data)
        try:
            load_lora(loras, path, allow_unmatched=bool(i % 3))
            loras.unload()
        except ModelFileError as error:
            messages.append(str(error))
        assert loras.weights == {} and all(torch.equal(v, state[k]) for k, v in unet.state_dict().items())
    assert len(messages) > 200 and all("x.safetensors" in each and "\n" not in each for each in messages)
