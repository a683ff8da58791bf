"""CLIP tokenizers as folders, checked before the Rust library sees them, which ends in any way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conditioning.clip.tokenizer import ADDED, CONFIG, MERGES, SPECIAL, VOCABULARY, WHOLE, ClipTokenizer, merge_lines
from ldm.io.disk.files import ModelFileError, read_json, size_in_words
from ldm.io.folder.field_types import FLAG, NULL, TEXT, FieldType, check_types, number
from ldm.naming import one_line, shown

_LARGEST = 2**26  # bytes of merges.txt; CLIP's has half a million
_MOST_TOKENS = 2**24
_SHORTEST = 3  # BOS, one token, EOS
_TOKEN = TEXT | FieldType(
    "an object with a text as its content", lambda value: isinstance(value, dict) and TEXT.holds(value.get("content"))
)
_CONFIG_TYPES: dict[str, FieldType] = {
    **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), _TOKEN),
    "model_max_length": number(_SHORTEST, 1e31),  # transformers writes 1e30 for none
    "added_tokens_decoder": FieldType("an object", lambda value: isinstance(value, dict)),
    "do_lower_case": FLAG | NULL,
    "add_prefix_space": FLAG | NULL,
}
_PROBE = " ".join(map(chr, range(ord("!"), ord("~"))))


def load_tokenizer(folder: Path, rows: int) -> ClipTokenizer:
    """The tokenizer of a model folder, for a text encoder whose embedding has so many rows. Raises ModelFileError."""
    contents = _checked_contents(folder)
    try:
        tokenizer = ClipTokenizer.from_contents(contents)
        tokens = tokenizer.get_vocab()
        tokenizer(_PROBE, padding=True)
    except BaseException as error:  # the Rust library panics outside of Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = one_line(f"{type(error).__name__}: {error}", 200)
        raise ModelFileError(f"{folder} holds no tokenizer of CLIP ({said}); copy or download it again") from None
    beyond = max(tokens, key=lambda token: tokens[token], default="")
    if tokens.get(beyond, -1) >= rows:
        raise ModelFileError(
            f"{folder}: the id {tokens[beyond]} of {shown(beyond)} is beyond the {rows} rows of the text encoder; "
            "copy the tokenizer that belongs to it"
        )
    return tokenizer


def _checked_contents(folder: Path) -> dict[str, Any]:
    """What the files hold, by their names."""
    whole, vocabulary, merges = folder / WHOLE, folder / VOCABULARY, folder / MERGES
    contents: dict[str, Any] = {}
    if not whole.exists() and not vocabulary.exists():
        raise ModelFileError(
            f"{folder} holds neither tokenizer.json nor vocab.json; give the tokenizer folder of a model"
        )
    if whole.exists():
        contents[WHOLE] = read_json(whole)
        _check_whole(contents[WHOLE], whole)
    else:
        contents |= {VOCABULARY: read_json(vocabulary), MERGES: _read_lines(merges)}
        _check_vocabulary(contents[VOCABULARY], str(vocabulary))
        _check_merges(contents[MERGES], str(merges))
    for name in (CONFIG, SPECIAL):
        if (folder / name).exists():
            contents[name] = read_json(folder / name)
            check_types(contents[name], _CONFIG_TYPES, str(folder / name))
    if (folder / ADDED).exists():
        contents[ADDED] = read_json(folder / ADDED)
        _check_vocabulary(contents[ADDED], str(folder / ADDED))
    return contents


def _check_whole(content: Mapping[str, Any], file: Path) -> None:
    model, added = content.get("model"), content.get("added_tokens", [])
    if not isinstance(model, dict):
        raise ModelFileError(f"{file}: model={shown(model)} is not an object")
    _check_vocabulary(model.get("vocab"), f"{file}: model.vocab")
    _check_merges(model.get("merges"), f"{file}: model.merges")
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        raise ModelFileError(f"{file}: added_tokens={shown(added)} is not a list of objects")
    for each in added:
        if not TEXT.holds(each.get("content")) or not _is_id(each.get("id")):
            raise ModelFileError(f"{file}: added_tokens has {shown(each)}, which is no token with a content and an id")


def _check_vocabulary(tokens: Any, where: str) -> None:
    if not isinstance(tokens, dict):
        raise ModelFileError(f"{where} is {shown(tokens)}, not an object of tokens and their ids")
    for token, number_of in tokens.items():
        if not _is_id(number_of):
            raise ModelFileError(f"{where}: the id {shown(number_of)} of {shown(token)} is no number of a token")
    if len(set(tokens.values())) < len(tokens):
        raise ModelFileError(f"{where} gives two tokens the same id; copy or download it again")


def _check_merges(merges: Any, where: str) -> None:
    if not isinstance(merges, list):
        raise ModelFileError(f"{where} is {shown(merges)}, not a list of pairs")
    for merge in merges:
        pair = merge.split() if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(TEXT.holds, pair)):
            raise ModelFileError(f"{where} has {shown(merge)}, which is no pair of tokens; copy or download it again")


def _read_lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ModelFileError(f"{file} is missing; copy or download the model again")
    if (size := file.stat().st_size) > _LARGEST:
        raise ModelFileError(f"{file} is of {size_in_words(size)}, not the merges of a tokenizer; copy it again")
    try:
        return merge_lines(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{file} is not UTF-8 ({error.reason}); copy or download it again") from None


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_TOKENS
