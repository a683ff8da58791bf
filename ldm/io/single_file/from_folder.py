"""A model folder as a `Checkpoint`, to be written as a single file: only what a single file can say."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from ldm.families.family import Family
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder.autoencoder import autoencoder_config, modern_autoencoder_name
from ldm.io.folder.folder_weights import folder_weights
from ldm.io.folder.scheduler import scheduler_settings
from ldm.io.folder.unet import unet_config
from ldm.io.keys import text_keys
from ldm.io.single_file import shapes
from ldm.io.single_file.checkpoint import Checkpoint, StoredText, known_kind
from ldm.io.single_file.prediction import Prediction
from ldm.io.single_file.signatures import family_of
from ldm.io.single_file.text_config import differences
from ldm.process import DiscreteVP

_STEM = "diffusion_pytorch_model"
_TABLE = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "betas")


def read_folder(path: Path) -> Checkpoint:
    """The networks of a Stable Diffusion folder, still in their files.

    A single file has no configs: whoever opens it takes what its family always is.

    Raises:
        ModelFileError: a folder that is damaged, or would be taken for something else; names the file, the field and
            both values.
    """
    where = str(path)
    unet = folder_weights(path / "unet", _STEM)
    family = family_of(unet, str(path / "unet"))
    config = shapes.infer_unet_config(unet, family.heads, family.size_count, str(path / "unet"))
    own, _ = unet_config(read_json(path / "unet" / "config.json"), str(path / "unet" / "config.json"))
    _same(own, config, path / "unet" / "config.json", family)
    vae = {modern_autoencoder_name(name): weight for name, weight in folder_weights(path / "vae", _STEM).items()}
    vae_config = shapes.infer_autoencoder_config(vae, str(path / "vae"))
    own_vae, latent_format = autoencoder_config(
        read_json(path / "vae" / "config.json"), str(path / "vae" / "config.json")
    )
    _same(own_vae, vae_config, path / "vae" / "config.json", family)
    if latent_format.scale != family.latent_scale or latent_format.shift:
        raise _other(path / "vae" / "config.json", "scaling_factor", latent_format.scale, family.latent_scale, family)
    return Checkpoint(
        where=where,
        family=family,
        kind=known_kind(config, family, str(path / "unet")),
        prediction=_prediction(path, family),
        unet_config=config,
        unet=unet,
        autoencoder_config=vae_config,
        autoencoder=vae,
        texts=_texts(path, family),
    )


def _texts(path: Path, family: Family) -> tuple[StoredText, ...]:
    texts = []
    for tower in family.towers:
        folder = path / tower.folder
        weights, unknown = text_keys.from_clip(folder_weights(folder, "model"))
        if left := [name for name in unknown if not name.endswith("position_ids")]:
            raise ModelFileError(f"{folder}: {left[0]} has no place in a text encoder")
        if not tower.projected:
            weights.pop(text_keys.PROJECTION, None)
        config = shapes.infer_text_config(weights, tower, str(folder))
        if other := differences(config, read_json(folder / "config.json")):
            raise ModelFileError(
                f"{folder / 'config.json'}: {other[0]}, as single files of {family.title} have it; keep the folder"
            )
        texts.append(StoredText(tower, config, weights))
    return tuple(texts)


def _prediction(path: Path, family: Family) -> Prediction:
    file = path / "scheduler" / "scheduler_config.json"
    settings = scheduler_settings(read_json(file), str(file))
    process = settings.process
    prediction = Prediction(settings.prediction_type, getattr(process, "zero_terminal_snr", False), file.name)
    if prediction.prediction_type not in ("epsilon", "v_prediction") or not isinstance(process, DiscreteVP):
        raise _other(file, "prediction_type", prediction.prediction_type, "epsilon or v_prediction", family)
    usual = family.process
    for name in _TABLE:
        if getattr(process, name) != getattr(usual, name):
            raise _other(file, name, getattr(process, name), getattr(usual, name), family)
    return prediction


def _same(own: Any, seen: Any, file: Path, family: Family) -> None:
    for field in fields(own):
        mine, theirs = getattr(own, field.name), getattr(seen, field.name)
        if mine != theirs:
            raise _other(file, field.name, mine, theirs, family)


def _other(file: Path, name: str, value: object, usual: object, family: Family) -> ModelFileError:
    return ModelFileError(
        f"{file}: {name}={value}, but whoever opens a single file of {family.title} takes it for {usual}; "
        "keep the folder"
    )
