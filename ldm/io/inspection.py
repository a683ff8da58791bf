"""Identifies a file of weights by its header; no weights are loaded, bytes are read only for the hash."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ldm.io.disk.files import ModelFileError
from ldm.io.single_file.checkpoint import Checkpoint, sort_out
from ldm.io.tensors.tensor_file import TensorFile, open_tensors

_NAMES = {
    "unet": "U-Net",
    "vae": "autoencoder",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}
_BLOCK = 1 << 20


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
    """A file of weights.

    Attributes:
        format: `safetensors` or `pickle`.
        type: what it is; where it is no whole model that opens here, why.
        sizes: network -> numbers in it, or the whole file as `all`.
        dtypes: type -> how many tensors have it.
        left_out: reason -> how many names of the file are not read.
    """

    path: Path
    format: str
    type: str
    sizes: dict[str, int]
    dtypes: dict[str, int]
    prediction: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


def inspect_model(path: Path) -> ModelReport:
    """Find out what a file of weights is.

    Raises:
        ModelFileError: it is none, or damaged.
    """
    file = open_tensors(path)
    dtypes: dict[str, int] = {}
    for weight in file.weights.values():
        name = str(weight.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    size, whole = path.stat().st_size, {"all": sum(weight.count for weight in file.weights.values())}
    try:
        checkpoint = sort_out(file)
    except ModelFileError as error:
        kind = str(error).removeprefix(f"{path} is ").removeprefix(f"{path}: ")
        return ModelReport(path, file.format, kind, whole, dtypes, metadata=file.metadata, bytes=size)
    return ModelReport(
        path=path,
        format=file.format,
        type=_type(checkpoint),
        sizes={
            _NAMES[name]: sum(weight.count for weight in weights.values())
            for name, weights in checkpoint.networks().items()
        },
        dtypes=dtypes,
        prediction=_prediction(checkpoint),
        left_out=_left_out(checkpoint, file),
        metadata=file.metadata,
        bytes=size,
    )


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
