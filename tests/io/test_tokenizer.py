"""Tokenizers that are damaged or of another model: one line with the file, before transformers or Rust see them."""

import copy
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from stable_diffusion import write_tiny_tokenizer
from transformers import CLIPTokenizer

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.load import load_folder
from ldm.io.folder.tokenizer import load_tokenizer

ROWS = 517
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
DROP = object()
ODD: tuple[Any, ...] = (DROP, None, [], ["x"], {}, "x", 10**12, -1, float("nan"), 1.5, True, "\x1b" * 5000)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt, as of Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("old") / "tokenizer"
    write_tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def new(old: Path) -> Path:
    """tokenizer.json, as transformers writes it, beside the old ones."""
    folder = old.parent / "new"
    theirs = CLIPTokenizer.from_pretrained(old, model_max_length=16)
    theirs.save_pretrained(folder)
    theirs.backend_tokenizer.model.save(str(folder))
    return folder


@pytest.fixture
def folder(old: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(old, tmp_path / "tokenizer"))


@pytest.fixture
def whole(new: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(new, tmp_path / "tokenizer"))


def _refused(folder: Path, rows: int = ROWS) -> str:
    with pytest.raises(ModelFileError) as error:
        load_tokenizer(folder, rows)
    message = str(error.value)
    assert str(folder) in message and message.isprintable() and len(message) < 700
    return message


def test_what_is_whole_opens(old: Path, new: Path) -> None:
    for folder in (old, new):
        assert load_tokenizer(folder, ROWS)("a red apple").input_ids[-1] == ROWS - 1


@pytest.mark.parametrize("token", [5.5, None, True, "1", -1, 10**12, [3], {}, 515])
def test_ids_that_are_none_are_named(folder: Path, token: Any) -> None:
    file = folder / "vocab.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "re": token}))
    assert f"{file}" in _refused(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "5", '{"a": 1', "[" * 1000 + "]" * 1000, '{"a":' * 1000 + "1" + "}" * 1000]
)
def test_vocabularies_that_are_no_json_object_are_named(folder: Path, content: str) -> None:
    (folder / "vocab.json").write_text(content)
    assert "vocab.json" in _refused(folder)


@pytest.mark.parametrize(
    "lines",
    ["r e\nx", "r e\nr e d", "r e\nzz yy", b"r \xff\n", "r e\n" + "x" * 10_000],
    ids=lambda lines: str(lines)[:9],
)
def test_merges_that_are_none_are_named(folder: Path, lines: str | bytes) -> None:
    (folder / "merges.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    _refused(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_half_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = _refused(folder)
    assert name in message and message.endswith(("of a model", "the model again"))


def test_ids_beyond_the_embedding_are_named(folder: Path) -> None:
    assert "the id 516 of '<|endoftext|>' is beyond the 516 rows" in _refused(folder, ROWS - 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(TOKENS, [None, 5, [], {}, {"content": 5}, float("nan")]),  # an unknown token is added
        *(("model_max_length", value) for value in (None, [], {}, {"content": 5}, float("nan"), "nobody")),
    ],
    ids=str,
)
def test_odd_settings_are_named(folder: Path, name: str, value: Any) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({name: value}))
    assert f"{file}: {name}=" in _refused(folder)


@pytest.mark.parametrize(
    "path",
    [
        *(("model",), ("model", "vocab"), ("model", "merges"), ("model", "type"), ("model", "vocab", "re")),
        *(("model", "merges", 0), ("model", "merges", 0, 0), ("model", "dropout"), ("model", "unk_token")),
        *(("added_tokens",), ("added_tokens", 0), ("added_tokens", 0, "id"), ("added_tokens", 0, "content")),
        *(("normalizer",), ("pre_tokenizer",), ("post_processor",), ("decoder",), ("truncation",), ("version",)),
        *(("post_processor", "sep", 1), ("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers", 0)),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_no_field_of_tokenizer_json_is_a_traceback(whole: Path, path: tuple[str | int, ...]) -> None:
    file = whole / "tokenizer.json"
    content = json.loads(file.read_text())
    for value in ODD:
        changed: Any = copy.deepcopy(content)
        within = changed
        for key in path[:-1]:
            within = within[key]
        if value is DROP:
            del within[path[-1]]
        else:
            within[path[-1]] = value
        file.write_text(json.dumps(changed))
        try:
            load_tokenizer(whole, ROWS)
        except ModelFileError as error:
            message = str(error)
            assert str(whole) in message and message.isprintable() and len(message) < 700


@pytest.mark.parametrize(
    "fields", [{"eos_token_id": None}, {"eos_token_id": 10**30}, {"bos_token_id": -1}, {"hidden_act": "x"}]
)
def test_text_encoders_that_cannot_run_are_refused(tiny_folder: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ModelFileError, match=re.escape(f"{file}: {next(iter(fields))}=")):
        load_folder(folder)
