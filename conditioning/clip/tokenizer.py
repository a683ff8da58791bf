"""CLIP's tokenizer (Radford et al. 2021, arXiv:2103.00020, sec. 2.4) by the `tokenizers` library alone.

Files are read, and texts cut into tokens, as transformers' CLIPTokenizer does it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch

from conditioning.clip.bpe import BOS, EOS, clip_normalizer, clip_pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DEFAULTS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_NO_LIMIT = int(1e30)


class TokenIds(NamedTuple):
    """Texts as ids, and 1 for every token, 0 for padding; lists, or tensors (B, L)."""

    input_ids: Any
    attention_mask: Any


class ClipTokenizer:
    """Cuts texts into byte pairs that never cross a word.

    Attributes:
        backend_tokenizer: of the `tokenizers` library.
        bos_token: stands before a text.
        eos_token: stands behind it.
        unk_token: what is not in the vocabulary.
        pad_token: fills up short texts.
        model_max_length: tokens of a text, BOS and EOS included.
    """

    backend_tokenizer: "Tokenizer"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        bos_token: str = BOS,
        eos_token: str = EOS,
        unk_token: str = EOS,
        pad_token: str = EOS,
        model_max_length: int = _NO_LIMIT,
        added: Sequence["AddedToken"] = (),
    ) -> None:
        """A tokenizer from its vocabulary.

        Args:
            vocabulary: token -> id.
            merges: pairs of tokens, the most important first.
            bos_token: see above; this and the next three get an id if the vocabulary has none for them.
            eos_token: see above.
            unk_token: see above.
            pad_token: see above.
            model_max_length: see above.
            added: tokens that are found in a text before it is cut into words.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, processors

        self.bos_token, self.eos_token, self.unk_token, self.pad_token = bos_token, eos_token, unk_token, pad_token
        self.model_max_length = model_max_length
        backend = Tokenizer(
            models.BPE(
                vocab=dict(vocabulary),
                merges=list(merges),
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=unk_token,
            )
        )
        backend.normalizer, backend.pre_tokenizer = clip_normalizer(), clip_pre_tokenizer()
        backend.decoder = decoders.ByteLevel()
        found = {token.content for token in added}
        named = [token for token in (bos_token, eos_token, unk_token, pad_token) if token not in found]
        backend.add_tokens([*added, *(AddedToken(token, special=True) for token in named)])
        self.backend_tokenizer = backend
        backend.post_processor = processors.RobertaProcessing(
            (eos_token, self.eos_token_id), (bos_token, self.bos_token_id), trim_offsets=False, add_prefix_space=False
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """The tokenizer in a folder that this class, transformers or OpenAI wrote; files are taken to be whole."""
        names = (WHOLE, VOCABULARY, CONFIG, SPECIAL, ADDED)
        files = [Path(folder, name) for name in names]
        contents = {file.name: json.loads(file.read_text("utf-8")) for file in files if file.is_file()}
        if (merges := Path(folder, MERGES)).is_file():
            contents[MERGES] = merge_lines(merges.read_text("utf-8"))
        return cls.from_contents(contents)

    @classmethod
    def from_contents(cls, contents: Mapping[str, Any]) -> Self:
        """The same from what the files hold, by their names; the merges as lines or pairs."""
        if WHOLE in contents:
            vocabulary, merges = (contents[WHOLE]["model"][name] for name in ("vocab", "merges"))
        else:
            vocabulary, merges = contents[VOCABULARY], contents[MERGES]
        settings = dict(contents.get(CONFIG, {}))
        added = _added_tokens(contents, settings)
        by_content = {token.content: token for token in added}
        settings = _DEFAULTS | {name: value for name, value in settings.items() if value is not None}
        named = [settings[name] for name in _NAMED if name in settings]
        for token in (*named, *_more_special_tokens(settings)):
            by_content.setdefault(_content(token), _special(token))
        for token in named:
            by_content[_content(token)].special = True
        return cls(
            vocabulary,
            [tuple(merge.split() if isinstance(merge, str) else merge) for merge in merges],
            **{name: _content(settings[name]) for name in _DEFAULTS},
            model_max_length=int(settings.get("model_max_length", _NO_LIMIT)),
            added=list(by_content.values()),
        )

    def save(self, folder: Path) -> None:
        """Write all files that transformers and older readers look for."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend_tokenizer.save(str(folder / WHOLE))
        self.backend_tokenizer.model.save(str(folder))
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.model_max_length,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **{name: getattr(self, name) for name in _DEFAULTS},
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def bos_token_id(self) -> int:
        """Id of `bos_token`."""
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int:
        """Id of `eos_token`."""
        return self._id(self.eos_token)

    @property
    def unk_token_id(self) -> int:
        """Id of `unk_token`."""
        return self._id(self.unk_token)

    @property
    def pad_token_id(self) -> int:
        """Id of `pad_token`."""
        return self._id(self.pad_token)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, of all tokens."""
        return self.backend_tokenizer.get_vocab()

    def ids(self, text: str) -> list[int]:
        """The text's tokens, all of them, without BOS and EOS."""
        return self.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def __call__(
        self,
        text: str | Sequence[str],
        padding: bool | Literal["max_length"] = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Literal["pt"] | None = None,
    ) -> TokenIds:
        """Texts with BOS and EOS.

        Args:
            text: one text, or several.
            padding: whether short ones are filled up to the longest, or to `max_length`.
            truncation: whether long ones are cut to `max_length`.
            max_length: in place of `model_max_length`.
            return_tensors: `pt` for tensors.
        """
        most = self.model_max_length if max_length is None else max_length
        rows = []
        for each in [text] if isinstance(text, str) else text:
            ids = self.ids(each)
            kept = ids[: max(most - 2, 0)] if truncation else ids
            rows.append([self.bos_token_id, *kept, self.eos_token_id])
        length = most if padding == "max_length" else max(map(len, rows), default=0) if padding else 0
        masks = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        rows = [row + [self.pad_token_id] * (length - len(row)) for row in rows]
        if return_tensors == "pt":
            return TokenIds(torch.tensor(rows), torch.tensor(masks))
        return TokenIds(rows[0], masks[0]) if isinstance(text, str) else TokenIds(rows, masks)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text that has these tokens, lower-cased."""
        text = self.backend_tokenizer.decode([int(each) for each in ids], skip_special_tokens=skip_special_tokens)
        return text.replace("</w>", " ").strip()

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """Each id's token; a word ends in `</w>`."""
        return [self.backend_tokenizer.id_to_token(int(each)) for each in ids]

    def _id(self, token: str) -> int:
        number = self.backend_tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"{token!r} is no token of this tokenizer")
        return number


def merge_lines(text: str) -> list[str]:
    """The merges in the text of a `merges.txt`, whose first line says a version."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#version")]


def _added_tokens(contents: Mapping[str, Any], settings: dict[str, Any]) -> "list[AddedToken]":
    """Tokens beside the vocabulary, by id, the newest way that there is: each came in its own version of transformers.

    What `special_tokens_map.json` says goes into `settings`.
    """
    from tokenizers import AddedToken

    if "added_tokens_decoder" in settings:
        return [_token(fields) for _, fields in sorted(settings["added_tokens_decoder"].items(), key=_number)]
    settings |= contents.get(SPECIAL, {})
    special = {_content(settings[name]) for name in _NAMED if settings.get(name)}
    special |= {_content(token) for token in _more_special_tokens(settings)}
    found = {
        number: AddedToken(token, normalized=token not in special, special=token in special)
        for token, number in contents.get(ADDED, {}).items()
    }
    for fields in contents.get(WHOLE, {}).get("added_tokens", ()):
        found[fields["id"]] = _token({name: value for name, value in fields.items() if name != "id"})
    return [token for _, token in sorted(found.items(), key=_number)]


def _number(item: tuple[Any, Any]) -> int:
    return int(item[0])


def _more_special_tokens(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Special tokens that have no role here."""
    for name, value in settings.items():
        if name.endswith("_token") and name not in _NAMED and isinstance(value, str | dict):
            yield value
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    yield from more.values() if isinstance(more, dict) else more


def _content(token: Any) -> str:
    return token if isinstance(token, str) else token["content"]


def _special(token: Any) -> "AddedToken":
    return _token({"content": token} if isinstance(token, str) else token, special=True)


def _token(fields: Mapping[str, Any], **more: Any) -> "AddedToken":
    from tokenizers import AddedToken

    return AddedToken(**{name: value for name, value in {**fields, **more}.items() if name != "__type"})
