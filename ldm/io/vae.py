"""An autoencoder on its own, in place of a model's: a file of any layout, a folder, a TAESD."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoencoder.build import Autoencoder, build_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.latent_format import LatentFormat
from autoencoder.tiny import TinyAutoencoder
from ldm.io.disk.files import ModelFileError, read_json, write_folder, write_json
from ldm.io.folder.autoencoder import autoencoder_config, autoencoder_fields, modern_autoencoder_name
from ldm.io.folder.folder_weights import STEM, folder_weights, part_of
from ldm.io.keys import autoencoder_keys
from ldm.io.keys.unet_keys import EMA
from ldm.io.single_file.ignorable import why_ignorable
from ldm.io.single_file.shapes import infer_autoencoder_config
from ldm.io.tensors.load_weights import FILE_PLAN, check_fit, load_weights, on_meta
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.tensor_file import open_tensors
from ldm.io.tensors.weights import LazyTensor, Weights

Advance = Callable[[int], None]
_UNET, _PREFIX = "model.diffusion_model.", "first_stage_model."
_COMPVIS = re.compile(r"(encoder\.down|decoder\.up)\.\d+\..+")
_TINY = re.compile(r"(?:taesd_)?(?:(encoder|decoder)\.)?(?:layers\.)?(\d+)\.(.+)")
_LEVELS = 4


@dataclass(frozen=True)
class StoredAutoencoder:
    """An autoencoder in its file: our names, its config, and its latents' scale where its config says it.

    Attributes:
        where: file or folder, for errors.
        tiny: a TAESD, whose latents have a denoiser's scale.
    """

    where: str
    config: AutoencoderConfig
    weights: Weights
    latent_format: LatentFormat | None = None
    tiny: bool = False

    def load(self, dtype: torch.dtype) -> Autoencoder:
        """The network, on the CPU. Raises ModelFileError for weights that do not fit."""
        if not self.tiny:
            return load_weights(lambda: build_autoencoder(self.config), self.weights, self.where, dtype, FILE_PLAN)
        with_encoder = any(name.startswith("encoder.") for name in self.weights)
        return load_weights(
            lambda: TinyAutoencoder(self.config, with_encoder), self.weights, self.where, dtype, FILE_PLAN
        )

    def format_for(self, own: LatentFormat) -> LatentFormat:
        """The latent format of a model, whose own is given, with this autoencoder.

        Raises:
            ModelFileError: its latents are of another kind.
        """
        mine = self.config.code_channels, self.config.factor
        if mine != (own.channels, own.factor):
            raise ModelFileError(
                f"{self.where}: its latents have {mine[0]} channels and {mine[1]} pixels a cell, this model's "
                f"{own.channels} and {own.factor}; take the autoencoder of a model of the same family"
            )
        if self.tiny:
            return replace(own, scale=1.0, shift=0.0, mean=None, std=None)
        return own if self.latent_format is None else replace(self.latent_format, preview=own.preview)


def read_autoencoder(path: Path) -> StoredAutoencoder:
    """Find an autoencoder in a file (CompVis' or diffusers' names, alone or in a checkpoint; TAESD) or a folder.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    if path.is_dir():
        return _in_folder(part_of(path, "vae"))
    weights = open_tensors(path).weights
    if any(name.startswith(_PREFIX) for name in weights):
        weights = {name: weight for name, weight in weights.items() if name.startswith(_PREFIX)}
    weights = {
        name.removeprefix(_PREFIX): weight
        for name, weight in weights.items()
        if why_ignorable(_PREFIX + name.removeprefix(_PREFIX)) is None
    }
    if weights and all(_TINY.fullmatch(name) for name in weights):
        return _tiny(weights, path)
    if any(_COMPVIS.fullmatch(name) for name in weights):
        ours, unknown = autoencoder_keys.to_ours(weights, str(path))
        if unknown:
            raise ModelFileError(f"{path}: {unknown[0]} has no place in an autoencoder")
    elif "encoder.conv_in.weight" in weights:
        ours = {modern_autoencoder_name(name): weight for name, weight in weights.items()}
    else:
        shown = ", ".join(sorted(weights)[:3]) or "nothing"
        raise ModelFileError(f"{path} holds no autoencoder, but {shown}; name a VAE, a TAESD or a checkpoint")
    return StoredAutoencoder(str(path), infer_autoencoder_config(ours, str(path)), ours)


def is_autoencoder(path: Path) -> bool:
    """Whether a file or folder is an autoencoder alone, no whole model."""
    if path.is_dir():
        return (path / "config.json").is_file() and "latent_channels" in read_json(path / "config.json")
    names = open_tensors(path).weights.keys()
    return not any(name.startswith((_UNET, EMA)) for name in names) and any(
        name.removeprefix(_PREFIX).startswith("decoder.") or _TINY.fullmatch(name) for name in names
    )


def convert_autoencoder(source: Path, target: Path, single: bool, advance: Advance = lambda size: None) -> None:
    """Write an autoencoder alone in the other layout, atomically.

    Args:
        source: a file or a folder.
        target: the file or folder to write.
        single: a file in CompVis' names, as other programs open it; else a folder for diffusers.
        advance: gets the bytes of each weight that is written.

    Raises:
        ModelFileError: weights that do not fit.
        ValueError: a TAESD, which has one layout.
        OSError: it cannot be written.
    """
    stored = read_autoencoder(source)
    if stored.tiny:
        raise ValueError(f"{source} is a TAESD, which every program opens as it is; there is nothing to convert")
    network = on_meta(lambda: build_autoencoder(stored.config))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    check_fit(shapes, stored.weights, stored.where, FILE_PLAN)
    if single:
        write_safetensors(target, autoencoder_keys.to_file(stored.weights, stored.config), {}, advance)
        return
    scale = None if stored.latent_format is None else stored.latent_format.scale
    with write_folder(target) as folder:
        write_json(folder / "config.json", autoencoder_fields(stored.config, scale))
        write_safetensors(folder / f"{STEM}.safetensors", stored.weights, {}, advance)


def _in_folder(folder: Path) -> StoredAutoencoder:
    file = folder / "config.json"
    fields = read_json(file)
    weights = folder_weights(folder, STEM)
    if fields.get("_class_name") == "AutoencoderTiny":
        return _tiny(weights, folder)
    config, latent_format = autoencoder_config(fields, str(file))
    weights = {modern_autoencoder_name(name): weight for name, weight in weights.items()}
    said = latent_format if {"scaling_factor", "shift_factor", "latents_mean"} & fields.keys() else None
    return StoredAutoencoder(str(folder), config, weights, said)


def _tiny(weights: Mapping[str, LazyTensor], path: Path) -> StoredAutoencoder:
    """A TAESD. The author's files hold one half each, whose decoder counts the clamp before its first convolution."""
    halves = {match.group(1) for name in weights if (match := _TINY.fullmatch(name))}
    if halves == {None}:
        half = "encoder" if weights.get("0.weight") is not None else "decoder"
        named = _numbered(weights, half)
        beside = path.with_name(path.name.replace("decoder", "encoder"))
        if half == "decoder" and beside != path and beside.is_file():
            named |= _numbered(open_tensors(beside).weights, "encoder")
    else:
        named = {}
        for half in ("encoder", "decoder"):
            own = {name: weight for name, weight in weights.items() if f"{half}." in name}
            diffusers = any(".layers." in name for name in own)
            named |= own if diffusers else _numbered({name.split(".", 1)[1]: each for name, each in own.items()}, half)
    first = named.get("decoder.layers.0.weight")
    if first is None or len(first.shape) != 4:
        raise ModelFileError(f"{path} is a TAESD without its decoder; name taesd_decoder.safetensors")
    config = AutoencoderConfig(latent_channels=first.shape[1], widths=(first.shape[0],) * _LEVELS, norm_groups=1)
    return StoredAutoencoder(str(path), config, named, tiny=True)


def _numbered(weights: Mapping[str, LazyTensor], half: str) -> dict[str, LazyTensor]:
    """Names by a layer's number -> diffusers' names."""
    named = {}
    for name, weight in weights.items():
        number, _, rest = name.partition(".")
        named[f"{half}.layers.{int(number) - (half == 'decoder')}.{rest}"] = weight
    return named
