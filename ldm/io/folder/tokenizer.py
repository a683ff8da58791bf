"""CLIP tokenizers as folders, checked before transformers and its Rust library see them: these end in any way."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.io.disk.files import ModelFileError, read_json, size_in_words
from ldm.io.folder.field_types import FLAG, NULL, TEXT, FieldType, check_types, number
from ldm.naming import one_line, shown

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

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


def load_tokenizer(folder: Path, rows: int) -> "CLIPTokenizer":
    """The tokenizer of a model folder, for a text encoder whose embedding has so many rows. Raises ModelFileError."""
    from transformers import CLIPTokenizer

    _check_files(folder)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        tokens, empty = tokenizer.get_vocab(), tokenizer("", truncation=False).input_ids
        tokenizer(_PROBE, truncation=False, verbose=False)
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
    if empty != [tokenizer.bos_token_id, tokenizer.eos_token_id] or None in (*empty, tokenizer.pad_token_id):
        raise ModelFileError(f"{folder}: bos_token, eos_token or pad_token is no token of its vocabulary")
    return tokenizer


def save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    """Write a CLIPTokenizer as vocab.json and merges.txt, which older readers need, beside what transformers writes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))


def _check_files(folder: Path) -> None:
    whole, vocabulary, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    if not whole.exists() and not vocabulary.exists():
        raise ModelFileError(
            f"{folder} holds neither tokenizer.json nor vocab.json; give the tokenizer folder of a model"
        )
    if whole.exists():
        _check_whole(read_json(whole), whole)
    if vocabulary.exists():
        _check_vocabulary(read_json(vocabulary), str(vocabulary))
    if not whole.exists() or merges.exists():
        _check_merges(_read_lines(merges), str(merges))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            check_types(read_json(folder / name), _CONFIG_TYPES, str(folder / name))
    if (folder / "added_tokens.json").exists():
        _check_vocabulary(read_json(folder / "added_tokens.json"), str(folder / "added_tokens.json"))


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
    """The merges in `merges.txt`, without its first line, which says a version."""
    if not file.is_file():
        raise ModelFileError(f"{file} is missing; copy or download the model again")
    if (size := file.stat().st_size) > _LARGEST:
        raise ModelFileError(f"{file} is of {size_in_words(size)}, not the merges of a tokenizer; copy it again")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{file} is not UTF-8 ({error.reason}); copy or download it again") from None
    return [line for number_of, line in enumerate(lines) if line.strip() and (number_of or not line.startswith("#"))]


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_TOKENS
