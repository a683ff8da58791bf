"""Identifies a model, an adapter, an autoencoder or an embedding by its headers; no weights of models are loaded."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ldm.adapters.lora.deltas import Delta
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder.folder_weights import STEM, folder_weights
from ldm.io.folder.restorer import is_restorer, read_restorer_config
from ldm.io.lora.family import made_for
from ldm.io.lora.names import BUNDLED, Factor, parse_key
from ldm.io.lora.read import read_lora
from ldm.io.single_file.checkpoint import Checkpoint, sort_out
from ldm.io.single_file.from_folder import read_folder
from ldm.io.tensors.tensor_file import TensorFile, open_tensors
from ldm.io.tensors.weights import LazyTensor
from ldm.io.vae import is_autoencoder, read_autoencoder

_NAMES = {
    "unet": "U-Net",
    "vae": "autoencoder",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}
_BLOCK = 1 << 20
_TAGS = 5
_EMBEDDINGS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
"""Widths of the text encoders of families that have one."""


@dataclass(frozen=True)
class Hashes:
    """Hashes of a file of weights, as tools write them into pictures.

    Attributes:
        sha256: of the whole file.
        short: its first ten digits, as A1111 writes it.
        old: the eight digits that A1111 used before, of 64 kB in the middle; two files may share them.
    """

    sha256: str
    short: str
    old: str


@dataclass(frozen=True)
class ModelReport:
    """A file or folder of weights.

    Attributes:
        format: `safetensors`, `pickle` or `folder`.
        type: what it is; where it is nothing that opens here, why.
        sizes: network -> numbers in it, or the whole file as `all`.
        dtypes: type -> how many tensors have it.
        details: of an adapter or an embedding: ranks, alphas, layers, trigger words, vectors.
        left_out: reason -> how many names of the file are not read.
    """

    path: Path
    format: str
    type: str
    sizes: dict[str, int]
    dtypes: dict[str, int]
    prediction: str = ""
    details: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


def inspect_model(path: Path) -> ModelReport:
    """Find out what a file or folder of weights is.

    Raises:
        ModelFileError: it is none, or damaged.
    """
    if path.is_dir():
        return _folder(path)
    file = open_tensors(path)
    report = ModelReport(
        path=path,
        format=file.format,
        type="",
        sizes={"all": sum(weight.count for weight in file.weights.values())},
        dtypes=_dtypes(file.weights.values()),
        metadata=file.metadata,
        bytes=path.stat().st_size,
    )
    if any(isinstance(factor := parse_key(name), Factor) and factor.part != "alpha" for name in file.weights):
        return _found(report, *_adapter(path))
    if words := _embedding(file):
        return _found(report, *words)
    try:
        checkpoint = sort_out(file)
    except ModelFileError as error:
        if is_autoencoder(path):
            return _found(report, _autoencoder(path))
        return _found(report, str(error).removeprefix(f"{path} is ").removeprefix(f"{path}: "))
    return _of_checkpoint(report, checkpoint, file)


def _found(report: ModelReport, type: str, details: Mapping[str, str] | None = None) -> ModelReport:
    """The report with what the file was found to be."""
    return replace(report, type=type, details=dict(details or {}))


def hash_file(path: Path, advance: Callable[[int], None] = lambda size: None) -> Hashes:
    """Read a file once for its hashes.

    Args:
        path: of the file.
        advance: gets the bytes of each block.
    """
    whole, old = hashlib.sha256(), hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            whole.update(block)
            advance(len(block))
        file.seek(0x100000)
        old.update(file.read(0x10000))
    return Hashes(whole.hexdigest(), whole.hexdigest()[:10], old.hexdigest()[:8])


def _folder(path: Path) -> ModelReport:
    if (path / "adapter_config.json").is_file():
        kind, details = _adapter(path)
        return ModelReport(path, "folder", kind, {}, {}, details=details)
    if is_autoencoder(path):
        stored = read_autoencoder(path)
        sizes = {"autoencoder": sum(weight.count for weight in stored.weights.values())}
        return ModelReport(path, "folder", _autoencoder(path), sizes, _dtypes(stored.weights.values()))
    if is_restorer(path):
        weights = folder_weights(path, STEM)
        kind = f"a restorer of {', '.join(read_restorer_config(path).kinds)}"
        return ModelReport(
            path, "folder", kind, {"restorer": sum(w.count for w in weights.values())}, _dtypes(weights.values())
        )
    if not (path / "model_index.json").is_file():
        raise ModelFileError(f"{path} is a folder without a model: it has no model_index.json; name a file or folder")
    index = read_json(path / "model_index.json")
    parts = {
        folder.name: [
            weight for file in sorted(folder.glob("*.safetensors")) for weight in open_tensors(file).weights.values()
        ]
        for folder in sorted(each for each in path.iterdir() if each.is_dir())
    }
    report = ModelReport(
        path=path,
        format="folder",
        type=str(index.get("_class_name")),
        sizes={
            _NAMES.get(name, name): sum(each.count for each in weights) for name, weights in parts.items() if weights
        },
        dtypes=_dtypes(weight for weights in parts.values() for weight in weights),
    )
    try:
        checkpoint = read_folder(path)
    except ModelFileError:  # no family's, as a model that was trained here
        return report
    return replace(report, type=_type(checkpoint), prediction=_prediction(checkpoint))


def _of_checkpoint(report: ModelReport, checkpoint: Checkpoint, file: TensorFile) -> ModelReport:
    return replace(
        report,
        type=_type(checkpoint),
        sizes={
            _NAMES[name]: sum(weight.count for weight in weights.values())
            for name, weights in checkpoint.networks().items()
        },
        prediction=_prediction(checkpoint),
        left_out=_left_out(checkpoint, file),
    )


def _adapter(path: Path) -> tuple[str, dict[str, str]]:
    """What an adapter is, and its ranks, alphas, layers and words."""
    try:
        file = read_lora(path)
    except ModelFileError as error:
        return f"a LoRA that is not read here: {str(error).removeprefix(f'{path}: ')}", {}
    family = made_for(file.deltas)
    alphas = Counter(_alpha(delta) for delta in file.deltas.values() if delta.rank is not None)
    ranks = Counter(str(delta.rank) for delta in file.deltas.values() if delta.rank is not None)
    kinds = Counter(type(delta).__name__ for delta in file.deltas.values())
    details = {
        "rank": _counts(ranks),
        "alpha": _counts(alphas),
        "layers": _counts(kinds, always=True),
        "embeddings": ", ".join(file.embeddings),
        "trigger words": ", ".join(trigger_words(file.metadata)),
    }
    kind = f"a LoRA for {family}" if family else "a LoRA"
    return f"{kind}, {file.style} names", {name: value for name, value in details.items() if value}


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """The words that a LoRA was trained with most often, by `ss_tag_frequency`, at most five."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts = Counter[str]()
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return []
    return [tag for tag, _ in counts.most_common(_TAGS)]


def _alpha(delta: Delta) -> str:
    return f"{delta.scale * (delta.rank or 1):g}"


def _counts(counts: Counter[str], always: bool = False) -> str:
    """`8 (190), 4 (2)`, and `8` where there is one."""
    alone = len(counts) == 1 and not always
    return ", ".join(name if alone else f"{name} ({count})" for name, count in counts.most_common(4))


def _embedding(file: TensorFile) -> tuple[str, dict[str, str]] | None:
    """What a textual inversion is; None for any other file."""
    weights = {name: weight for name, weight in file.weights.items() if len(weight.shape) in (1, 2)}
    pair = {"clip_l", "clip_g"} <= weights.keys()
    single = len(file.weights) == 1 and max(next(iter(file.weights.values())).shape, default=0) >= 512
    named = [name for name in weights if "emb_params" in name or "string_to_param" in name]
    if not (pair or single or named) or len(weights) != len(file.weights) or any(map(BUNDLED.fullmatch, weights)):
        return None
    first = weights["clip_l"] if pair else weights[named[0] if named else next(iter(weights))]
    vectors = first.shape[0] if len(first.shape) == 2 else 1
    family = "Stable Diffusion XL" if pair else _EMBEDDINGS.get(first.shape[-1], "")
    kind = f"a textual inversion for {family}" if family else "a textual inversion"
    return kind, {"vectors": str(vectors), "word": file.path.stem}


def _autoencoder(path: Path) -> str:
    stored = read_autoencoder(path)
    kind = "a TAESD" if stored.tiny else "an autoencoder"
    return f"{kind} alone, {stored.config.code_channels} channels, {stored.config.factor} pixels a cell"


def _dtypes(weights: Iterable[LazyTensor]) -> dict[str, int]:
    return dict(Counter(str(weight.dtype).removeprefix("torch.") for weight in weights))


def _type(checkpoint: Checkpoint) -> str:
    size = "" if checkpoint.published else ", not of the published size"
    lost = f", without {' and '.join(checkpoint.missing)}" if checkpoint.missing else ""
    return f"{checkpoint.title}{size}{lost}"


def _prediction(checkpoint: Checkpoint) -> str:
    prediction = checkpoint.prediction
    if prediction.prediction_type is None:
        return "epsilon or v_prediction: nothing in the file tells"
    zero = ", zero terminal SNR" if prediction.zero_terminal_snr else ""
    return f"{prediction.prediction_type}{zero} ({prediction.source})"


def _left_out(checkpoint: Checkpoint, file: TensorFile) -> dict[str, int]:
    counts = {reason: len(names) for reason, names in checkpoint.ignored.items()}
    if file.others:
        counts[f"entries of the pickle that are no weights ({', '.join(file.others[:3])})"] = len(file.others)
    return counts
