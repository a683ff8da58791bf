"""Finds a model by name: shipped with the package, in a folder, or on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.folder_weights import STEM
from ldm.io.folder.restorer import is_restorer
from ldm.io.library import known_path
from ldm.io.shipped import shipped_models, shipped_restorers
from ldm.naming import nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PARTS = (
    *("scheduler", "low_res_scheduler", "unet", "vae", "upscaler"),
    *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)
# Pickles and the single-file copies at the root of many repositories are left where they are.
_SMALL = ["model_index.json", "ldm.json", "denoising_errors.json", "few_steps/*"] + [
    f"{part}/{end}" for part in _PARTS for end in ("*.json", "*.txt")
]


def find_restorer(name: str) -> Path:
    """The folder of a restorer: a shipped name, or the folder of a training or of its export.

    Raises:
        FileNotFoundError: a name that is none of these.
    """
    here = shipped_restorers().get(name, Path(name))
    if (here / "checkpoints").is_dir():
        here = _exported(here)
    if here.is_dir():
        return here
    raise FileNotFoundError(
        f"restorer {name!r} is neither shipped nor a folder; "
        "train one with `ldm train configs/restorer.yaml` and name its folder"
    )


def is_restorer_named(name: str) -> bool:
    """Whether a name is a restorer's and no other model's."""
    try:
        return is_restorer(find_restorer(name))
    except FileNotFoundError:
        return False


def find_model(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a model: a shipped name, a folder, a name in the library, else a hub id, which is fetched once.

    Args:
        name: of a shipped model or of a part of one (`emoji/vae`), path of a model's or a training's folder, a name in
            `ldm.io.library`, or hub id.
        revision: branch, tag or commit on the hub.
        variant: which weights to fetch, e.g. `fp16`.

    Raises:
        FileNotFoundError: a name that is none of these.
        ValueError: a revision of what is not on the hub.
        ModelFileError: the hub cannot be reached or does not have the model.
    """
    shipped = shipped_models()
    model, _, part = name.partition("/")
    own = shipped[model] / part if model in shipped and part in ("", *_PARTS) else None
    here = own if own is not None and own.is_dir() else Path(name) if Path(name).is_dir() else None
    if here is not None and (here / "checkpoints").is_dir():
        here = _exported(here)
    if here is not None:
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for models on the hub; {name} is a folder here")
        return here
    found = Path(known_path("models", name))
    if found.is_dir():
        return found
    if found.is_file():
        raise FileNotFoundError(f"model {str(found)!r} is a file, not a folder; open it with from_single_file")
    if _HUB_ID.fullmatch(name):
        return _fetch_model(name, revision, variant)
    raise FileNotFoundError(f"model {name!r} is neither shipped nor a folder; {nearest(name, shipped)}")


def find_autoencoder(name: str) -> Path:
    """A file or folder of an autoencoder, or the folder of a hub id, which is fetched once.

    Raises:
        FileNotFoundError: a name that is none of these.
        ModelFileError: the hub cannot be reached or does not have it.
    """
    if name.partition("/")[0] in shipped_models():
        return find_model(name)
    found = Path(known_path("vae", name))
    if found.exists():
        return found
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"autoencoder {name!r} is neither a file nor a folder; check the spelling of vae")
    files_of_one = ("config.json", f"{STEM}*.safetensors")
    folder = _fetch(name, [place + file for place in ("", "vae/") for file in files_of_one])
    if not any((folder / place / "config.json").is_file() for place in ("", "vae")):
        raise ModelFileError(f"{name!r} on the hub has no autoencoder's config.json; download its file and name that")
    return folder


def _exported(run: Path) -> Path:
    """The model of a training's folder.

    Raises:
        FileNotFoundError: it has none yet.
    """
    if (run / "export").is_dir():
        return run / "export"
    raise FileNotFoundError(
        f"{run} is a training without a model yet; `ldm train export {run}` makes one of a checkpoint"
    )


def resolve_model(setting: str, name: str) -> Path:
    """`find_model` for the model that `setting` of a training names. Raises what that raises, with the setting."""
    try:
        return find_model(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{setting}: {error}") from None


def _fetch_model(name: str, revision: str | None, variant: str | None) -> Path:
    endings = ["*.safetensors"] if variant is None else [f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"]
    wanted = _SMALL + [f"{part}/{ending}" for part in _PARTS for ending in endings]
    unwanted = ["*.non_ema.*", *([] if variant else ["*.fp16.*", "*.fp16-*"])]
    folder = _fetch(name, wanted, unwanted, revision)
    if not (folder / "model_index.json").is_file():
        raise ModelFileError(
            f"model {name!r} on the hub is no model folder (it has no model_index.json); if it is a single file, "
            "download it and open it with from_single_file"
        )
    return folder


def _fetch(name: str, wanted: list[str], unwanted: Sequence[str] = (), revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=list(unwanted)))
    except GatedRepoError:
        raise ModelFileError(
            f"model {name!r} is given only to those who accept its terms on the hub; do so, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise ModelFileError(
            f"model {name!r} is neither a folder nor a public model on the hub; check the spelling"
        ) from None
    except RevisionNotFoundError:
        raise ModelFileError(f"model {name!r} has no revision={revision!r} on the hub; leave it out") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError, TimeoutError):
        raise ModelFileError(
            f"model {name!r} is no folder here, and the hub cannot be reached to fetch it; "
            "connect, or name a folder or the shipped model emoji"
        ) from None
