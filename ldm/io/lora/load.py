"""Loads adapter files into a model, and refuses weights that match no layer of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ldm.adapters.lora.adapter_set import AdapterWeight, LoraSet
from ldm.adapters.lora.deltas import check_shape
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.names import known_names
from ldm.io.lora.read import LoraFile, read_lora


@dataclass(frozen=True)
class LoraReport:
    """A loaded adapter file: which of its layers are in the model.

    Attributes:
        name: of the adapter in its set.
        path: of the file.
        style: kohya, diffusers or peft.
        matched, total: layers of the file that the model has, and all.
        unmatched: the file's names of the others.
        towers: matched layers by network.
        ranks: the different ranks, ascending; empty where all factors are whole.
        metadata: of the file's header.
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

    def __str__(self) -> str:
        towers = ", ".join(f"{tower} {count}" for tower, count in self.towers.items())
        return f"{self.name}: {self.matched} of {self.total} layers matched ({towers}), {self.style} names"


def load_lora(
    adapter_set: LoraSet,
    path: str | Path,
    weight: AdapterWeight = 1.0,
    name: str | None = None,
    allow_unmatched: bool = False,
) -> LoraReport:
    """Read an adapter (kohya, diffusers or PEFT names) and merge it into the model of a set.

    Args:
        adapter_set: of the model.
        path: a `.safetensors` file, a tensors-only `.pt`, or a PEFT folder.
        weight: how strongly it acts.
        name: by default the file's own.
        allow_unmatched: leave out layers that this model does not have, in place of refusing the file.

    Raises:
        ModelFileError: no or a damaged file, an unsupported kind of adapter, layers that the model does not have, or of
            another shape; names the file and the layer. The model is as it was.
        ValueError: the name is taken, or the weight is none.
    """
    path = Path(path)
    file = read_lora(path)
    stems, unmatched = _matched(file, adapter_set, allow_unmatched)
    deltas = {layer: file.deltas[stem] for layer, stem in stems.items()}
    for layer, stem in stems.items():
        try:
            check_shape(deltas[layer], tuple(adapter_set.layers[layer].weight.shape))
        except ValueError as error:
            raise ModelFileError(f"{path}: {stem}: {error}; the LoRA is for another kind of model") from None
    name = path.stem if name is None else name
    adapter_set.add(deltas, name, weight)
    return LoraReport(
        name=name,
        path=path,
        style=file.style,
        matched=len(deltas),
        total=len(file.deltas) + len(file.strangers),
        unmatched=unmatched,
        towers=dict(Counter(layer.partition(".")[0] for layer in deltas)),
        ranks=tuple(sorted({delta.rank for delta in deltas.values() if delta.rank is not None})),
        metadata=file.metadata,
    )


def _matched(file: LoraFile, adapter_set: LoraSet, allow_unmatched: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """(the file's layers by address in the model, those that it lacks). Raises ModelFileError."""
    known = known_names(adapter_set.layers, adapter_set.unet_config)
    stems = {known[stem]: stem for stem in file.deltas if stem in known}
    unmatched = (*(stem for stem in file.deltas if stem not in known), *file.strangers)
    total = len(file.deltas) + len(file.strangers)
    if unmatched and not (allow_unmatched and stems):
        others = f" and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""
        mend = "; allow_unmatched=True leaves them out" if stems else ""
        raise ModelFileError(
            f"{file.path}: {unmatched[0]}{others} have no place in this model ({len(stems)} of {total} matched); "
            f"the LoRA is for another kind of model{mend}"
        )
    if len(stems) + len(unmatched) < total:
        raise ModelFileError(f"{file.path}: several of its layers are the same layer of the model under two names")
    return stems, unmatched
