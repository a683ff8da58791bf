"""Where a model is: shipped with the package, in a folder, or on the Hugging Face hub."""

import re
from importlib.resources import files
from pathlib import Path

from ldm.io.files import ModelFileError
from ldm.naming import nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Pickles and the single-file copies at the root of many repositories are left where they are.
_WANTED = [
    f"{folder}{pattern}"
    for folder in ("scheduler/", "text_encoder/", "tokenizer/", "unet/", "upscaler/", "vae/")
    for pattern in ("*.json", "*.txt", "*.safetensors")
] + ["model_index.json", "ldm.json"]
_UNWANTED = ["*.fp16.safetensors", "*.non_ema.safetensors"]


def shipped_models() -> dict[str, Path]:
    """The models inside the package, by name."""
    root = Path(str(files("ldm"))) / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/model_index.json"))}


def find_model(name: str) -> Path:
    """The folder of a model: a shipped name, else a folder, else a hub id `owner/name`, which is fetched once.

    Raises FileNotFoundError for a name that is none of these, and ModelFileError where the hub cannot be reached or
    does not have the model.
    """
    shipped = shipped_models()
    if name in shipped:
        return shipped[name]
    if Path(name).is_dir():
        return Path(name)
    if _HUB_ID.fullmatch(name):
        return _fetch(name)
    raise FileNotFoundError(f"model {name!r} is neither shipped nor a folder; {nearest(name, shipped)}")


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except RepositoryNotFoundError:
        raise ModelFileError(
            f"model {name!r} is neither a folder nor a public model on the hub; check the spelling"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError):
        raise ModelFileError(
            f"model {name!r} is no folder here, and the hub cannot be reached to fetch it; "
            "connect, or name a folder or the shipped model emoji"
        ) from None
