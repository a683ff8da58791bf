"""Loads adapter files into a model, and refuses weights that match no layer of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conditioning.clip.textual_inversion import Embedding, embedding_of
from ldm.adapters.lora.adapter_set import AdapterWeight, LoraSet
from ldm.adapters.lora.deltas import check_shape
from ldm.adapters.lora.layers import BIAS
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.family import made_for
from ldm.io.lora.names import known_names
from ldm.io.lora.read import LoraFile, read_lora

_SHOWN = 3
"""Names of layers in a message."""


@dataclass(frozen=True)
class LoraReport:
    """A loaded adapter file: which of its layers are in the model.

    Attributes:
        name: of the adapter in its set.
        path: of the file.
        style: kohya, comfyui, diffusers or peft.
        matched, total: layers of the file that the model has, and all.
        unmatched: the file's names of the others.
        towers: matched layers by network.
        ranks: the different ranks, ascending; empty where all factors are whole.
        metadata: of the file's header.
        embeddings: textual inversions that the file brings along.
        note: what had to be decided where the file does not say it, the end of a line; else empty.
    """

    name: str
    path: Path
    style: str
    matched: int
    total: int
    unmatched: tuple[str, ...]
    towers: Mapping[str, int]
    ranks: tuple[int, ...]
    metadata: Mapping[str, str]
    embeddings: tuple[Embedding, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        towers = ", ".join(f"{tower} {count}" for tower, count in self.towers.items())
        words = f", with the words {', '.join(each.name for each in self.embeddings)}" if self.embeddings else ""
        return (
            f"{self.name}: {self.matched} of {self.total} layers matched ({towers}), "
            f"{self.style} names{words}{self.note}"
        )


def load_lora(
    adapter_set: LoraSet,
    path: str | Path,
    weight: AdapterWeight = 1.0,
    name: str | None = None,
    allow_unmatched: bool = False,
    widths: Sequence[int] = (),
) -> LoraReport:
    """Read an adapter (kohya, ComfyUI, diffusers or PEFT names) and merge it into the model of a set.

    Args:
        adapter_set: of the model.
        path: a `.safetensors` file, a tensors-only `.pt`, or a PEFT folder.
        weight: how strongly it acts.
        name: by default the file's own.
        allow_unmatched: leave out layers that this model does not have, in place of refusing the file.
        widths: of the model's text towers, for embeddings that the file brings along.

    Raises:
        ModelFileError: no or a damaged file, an unsupported kind of adapter, layers that the model does not have, or of
            another shape; names the file and the layer. The model is as it was.
        ValueError: the name is taken, or the weight is none.
    """
    path = Path(path)
    file = read_lora(path)
    embeddings = _embeddings(file, widths)
    stems, unmatched = _matched(file, adapter_set, embeddings, allow_unmatched)
    deltas = {layer: file.deltas[stem] for layer, stem in stems.items()}
    for layer, stem in stems.items():
        try:
            check_shape(deltas[layer], tuple(adapter_set.places[layer].parameter.shape))
        except ValueError as error:
            raise ModelFileError(f"{path}: {stem}: {error}; the LoRA is for {_another(file)}") from None
    name = path.stem if name is None else name
    adapter_set.add(deltas, name, weight)
    return LoraReport(
        name=name,
        path=path,
        style=file.style,
        matched=len(deltas),
        total=len(deltas) + len(unmatched),
        unmatched=unmatched,
        towers=dict(Counter(layer.partition(".")[0] for layer in deltas)),
        ranks=tuple(sorted({delta.rank for delta in deltas.values() if delta.rank is not None})),
        metadata=file.metadata,
        embeddings=tuple(embeddings.values()),
        note="".join(f"; {note}" for note in file.notes),
    )


def _embeddings(file: LoraFile, widths: Sequence[int]) -> dict[str, Embedding]:
    """The bundled embeddings that fit text towers of these widths, by their words."""
    found = {}
    for word, content in file.embeddings.items() if widths else ():
        with suppress(ValueError):
            found[word] = embedding_of(content, widths, word, str(file.path))
    return found


def _matched(
    file: LoraFile, adapter_set: LoraSet, embeddings: Mapping[str, Embedding], allow_unmatched: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(the file's layers by address in the model, what of the file it lacks). Raises ModelFileError."""
    places = adapter_set.places
    known = known_names((place for place in places if not place.endswith(BIAS)), adapter_set.unet_config)
    addresses = {stem: known.get(stem.removesuffix(BIAS), "") + BIAS * stem.endswith(BIAS) for stem in file.deltas}
    matched = [stem for stem, address in addresses.items() if address in places]
    lost = (f"bundle_emb.{word}" for word in file.embeddings if word not in embeddings)
    unmatched = (*(stem for stem in file.deltas if addresses[stem] not in places), *file.strangers, *lost)
    if unmatched and not (allow_unmatched and matched):
        shown, more = ", ".join(unmatched[:_SHOWN]), len(unmatched) - _SHOWN
        mend = "; allow_unmatched=True (--allow-unmatched) leaves them out" if matched else ""
        raise ModelFileError(
            f"{file.path}: {shown}{f' and {more} more' if more > 0 else ''} have no place in this model "
            f"({len(matched)} of {len(matched) + len(unmatched)} matched); the LoRA is for {_another(file)}{mend}"
        )
    stems = {addresses[stem]: stem for stem in matched}
    if len(stems) < len(matched):
        raise ModelFileError(f"{file.path}: several of its layers are the same layer of the model under two names")
    return stems, unmatched


def _another(file: LoraFile) -> str:
    return made_for(file.deltas) or "another kind of model"
