"""PyTorch pickles (`.ckpt`, `.pt`, `.pth`, `.bin`): tensors only. Nothing in them is ever run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.io.disk.files import ModelFileError


class UnsafePickle(ModelFileError):
    """A pickle that asks to run `wanted` when it is opened, and was not opened."""

    def __init__(self, path: Path, wanted: str) -> None:
        super().__init__(
            f"{path} asks to run {wanted} when opened and was not opened; weights need no code: get the .safetensors"
            " file of this model, or ask its author for one"
        )
        self.wanted = wanted


class _Inert:
    """Stands for harmless objects of other libraries that trainers left in their checkpoints; keeps nothing."""

    def __init__(self, *values: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# The first Stable Diffusion checkpoints hold these beside their weights: the best score so far, as a numpy number.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, f"{module}.{name}")
    for module, name in (
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
        ("numpy.dtypes", "Float64DType"),
        ("_codecs", "encode"),
    )
]
_GLOBAL = re.compile(r"GLOBAL (\S+)|(?:type|class|function) (\S+\.\S+)")


def read_pickle(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint, by name, and the names of what else was in it (optimizer states, counters).

    A `state_dict` inside is what is taken. Zip files (PyTorch 1.6 and later) are mapped, older ones are read.

    Raises:
        ModelFileError: a pickle with anything but tensors and plain data, or a damaged file.
    """
    content = load_pickle(path)
    nested = content.get("state_dict") if isinstance(content, dict) else None
    if isinstance(nested, dict):
        others = [str(name) for name in content if name != "state_dict"]
        content = nested
    else:
        others = []
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds {type(content).__name__}, not named weights; it is no checkpoint")
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided:
            tensors[name] = value.detach()
        else:
            others.append(str(name))
    return tensors, others


def load_pickle(path: Path, mapped: bool = True) -> Any:
    """The contents of a checkpoint: tensors and plain data.

    Args:
        path: of the file.
        mapped: do not read tensors before they are used, if possible.

    Raises:
        UnsafePickle: there is anything else in it.
        ModelFileError: it is missing or damaged.
    """
    import pickle

    try:
        with open(path, "rb") as file, torch.serialization.safe_globals([torch.nn.ParameterDict, *_HARMLESS]):
            zipped = file.read(2) == b"PK" and path.suffix != ".safetensors"  # which torch would hand to safetensors
            file.seek(0)
            mapped = mapped and zipped
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; check the name") from None
    except pickle.UnpicklingError as error:
        wanted = _GLOBAL.search(str(error))
        if wanted is None:
            raise _damaged(path, error) from None
        raise UnsafePickle(path, wanted.group(1) or wanted.group(2)) from None
    except Exception as error:  # a damaged pickle fails in any way that its bytes happen to say
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ModelFileError:
    said = str(error).strip().split("\n")[0][:120]
    return ModelFileError(
        f"{path} is truncated, damaged or no PyTorch checkpoint ({type(error).__name__}: {said}); "
        "copy or download it again"
    )
