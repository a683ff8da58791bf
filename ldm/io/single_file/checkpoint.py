"""A single file sorted into networks. Everything is decided from names, shapes and metadata; no weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoencoder.config import AutoencoderConfig
from ldm.families.family import Family, Tower
from ldm.families.kinds import TEXT_TO_IMAGE, UPSCALING, kind_of
from ldm.families.stable_diffusion import FAMILIES
from ldm.io.disk.files import ModelFileError
from ldm.io.keys import autoencoder_keys, text_keys
from ldm.io.keys.rename import rename
from ldm.io.keys.unet_keys import EMA, UNetPlan, ema_name, name_of_ema, unet_modules
from ldm.io.single_file.ignorable import BESIDE_EMA, LAST_LAYER, why_ignorable
from ldm.io.single_file.prediction import Prediction, prediction_of
from ldm.io.single_file.refused import refuse_others, refuse_unknown
from ldm.io.single_file.shapes import TextConfig, infer_autoencoder_config, infer_text_config, infer_unet_config
from ldm.io.single_file.signatures import family_of
from ldm.io.tensors.tensor_file import TensorFile, open_tensors
from ldm.io.tensors.weights import LazyTensor, Weights
from ldm.naming import look_up
from ldm.networks.unet.config import UNetConfig

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
_WHOLE_TOWER = 24
"""Layers of the OpenCLIP tower that SD 2 was trained with, of which it runs all but the last."""


@dataclass(frozen=True)
class StoredText:
    """One text encoder in its file: transformers' names with `text_model.`, as on disk."""

    tower: Tower
    config: TextConfig
    weights: Weights


@dataclass(frozen=True)
class Checkpoint:
    """The networks of a model, still in their file, by our names, with their configs.

    Attributes:
        where: the file or folder, for errors.
        kind: what it is for (`ldm.families.kinds`).
        autoencoder: may be missing, as may `texts`.
        ignored: reason -> names that were left out for it.
        load_options: what the caller decided, by option.
    """

    where: str
    family: Family
    kind: str
    prediction: Prediction
    unet_config: UNetConfig
    unet: Weights
    autoencoder_config: AutoencoderConfig | None = None
    autoencoder: Weights = field(default_factory=dict)
    texts: tuple[StoredText, ...] = ()
    ignored: Mapping[str, list[str]] = field(default_factory=dict)
    load_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The family and, where it is not text to image, what the U-Net is for."""
        plain = self.kind == TEXT_TO_IMAGE or self.family.name == "x4-upscaler"
        return self.family.title if plain else f"{self.family.title}, {self.kind}"

    @property
    def published(self) -> bool:
        """Whether the U-Net has the sizes of the published models of its family."""
        return self.unet_config == replace(self.family.unet, in_channels=self.unet_config.in_channels)

    @property
    def missing(self) -> list[str]:
        """Networks that the family has and the file lacks."""
        lost = [] if self.autoencoder else ["the autoencoder"]
        count = len(self.family.towers)
        if len(self.texts) < count:
            lost.append("the text encoder" if count == 1 else f"{count - len(self.texts)} of {count} text encoders")
        return lost

    def networks(self) -> dict[str, Weights]:
        """The weights of each network that is there, by the name of its folder in diffusers' layout."""
        found: dict[str, Weights] = {"unet": self.unet}
        if self.autoencoder:
            found["vae"] = self.autoencoder
        return found | {text.tower.folder: text.weights for text in self.texts}


def read_checkpoint(
    path: Path,
    *,
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
    family: str | None = None,
    ema: bool = False,
) -> Checkpoint:
    """Open a single file: find out what it is and sort its weights. See `load_single_file` for the options.

    Raises:
        ModelFileError: a file that is damaged, is something else or has names with no place.
        ValueError: an option that does not fit.
    """
    return sort_out(open_tensors(path), prediction_type, zero_terminal_snr, family, ema)


def sort_out(
    file: TensorFile,
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
    family: str | None = None,
    ema: bool = False,
) -> Checkpoint:
    """`read_checkpoint` for a file that is open."""
    where = str(file.path)
    refuse_others(file.weights, where)
    left_out: dict[str, list[str]] = {}
    unet, rest = _take_unet(file.weights, ema, left_out, where)
    own = family_of(unet, where) if family is None else look_up("family", family, FAMILIES)
    config = infer_unet_config(unet, own.heads, own.size_count, where)
    kind = known_kind(config, own, where)
    autoencoder = _take_autoencoder(rest, where)
    texts = tuple(text for tower in own.towers if (text := _take_text(rest, tower, left_out, where)) is not None)
    for name in rest:
        reason = why_ignorable(name)
        if reason is None:
            raise ModelFileError(f"{where}: {name} has no place in {own.title} and is not known to be needless")
        left_out.setdefault(reason, []).append(name)
    load_options = {
        "prediction_type": prediction_type,
        "zero_terminal_snr": zero_terminal_snr,
        "family": family,
        "ema": ema,
    }
    return Checkpoint(
        where=where,
        family=own,
        kind=kind,
        prediction=prediction_of(
            own, config.in_channels, file.weights, file.metadata, prediction_type, zero_terminal_snr
        ),
        unet_config=config,
        unet=unet,
        autoencoder_config=infer_autoencoder_config(autoencoder, where) if autoencoder else None,
        autoencoder=autoencoder,
        texts=texts,
        ignored=left_out,
        load_options={name: str(value) for name, value in load_options.items() if value not in (None, False)},
    )


def known_kind(config: UNetConfig, family: Family, where: str) -> str:
    """The kind of a U-Net of the family.

    Raises:
        ModelFileError: its input channels are those of nothing known.
    """
    kind = kind_of(config)
    if kind is None or (kind == UPSCALING) != (family.name == "x4-upscaler"):
        raise ModelFileError(
            f"{where}: no {family.title} with {config.in_channels} input channels is known; "
            "there are 4 (text to image), 9 (inpainting), 8 (InstructPix2Pix), 5 (depth), and 7 in the x4 upscaler"
        )
    return kind


def _take_unet(
    weights: Weights, ema: bool, left_out: dict[str, list[str]], where: str
) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """The U-Net by our names, and everything else by the file's."""
    prefix = UNET if any(name.startswith(UNET) for name in weights) else ""
    if not prefix and any(name.startswith(EMA) for name in weights):  # averages alone
        named = {UNET + name_of_ema(name): weight for name, weight in weights.items() if name.startswith(EMA)}
        others = {name: weight for name, weight in weights.items() if not name.startswith(EMA)}
        return _take_unet(named | others, False, left_out, where)
    own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    if "input_blocks.0.0.weight" not in own:
        if "down_blocks.0.resnets.0.time_emb_proj.weight" in own and not ema:  # diffusers' names, which are ours
            return own, {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
        raise refuse_unknown(weights, where)
    modules = unet_modules(UNetPlan.seen_in(own, where))
    ours, rest = {}, dict(weights)
    for name in own:
        new = rename(name, modules)
        if new is None:
            if prefix:
                raise ModelFileError(f"{where}: {prefix}{name} has no place in a U-Net of Stable Diffusion")
            continue
        source = ema_name(name) if ema else prefix + name
        if source not in weights:
            raise ValueError(f"ema=True, but {where} has no moving average: {source} is not in it")
        ours[new] = weights[source]
        rest.pop(prefix + name)
        if ema:
            rest.pop(source)
            left_out.setdefault(BESIDE_EMA, []).append(prefix + name)
    return ours, rest


def _take_autoencoder(rest: dict[str, LazyTensor], where: str) -> dict[str, LazyTensor]:
    """Move the autoencoder out of `rest`; by our names, empty if there is none."""
    own = {name.removeprefix(AUTOENCODER): name for name in rest if name.startswith(AUTOENCODER)}
    own = {name: full for name, full in own.items() if why_ignorable(full) is None}
    if not own:
        return {}
    ours, unknown = autoencoder_keys.to_ours({name: rest[full] for name, full in own.items()}, where)
    for name, full in own.items():
        if name not in unknown:
            rest.pop(full)
    return ours


def _take_text(
    rest: dict[str, LazyTensor], tower: Tower, left_out: dict[str, list[str]], where: str
) -> StoredText | None:
    """Move a text encoder out of `rest`; None if there is none."""
    own = {name.removeprefix(tower.prefix): weight for name, weight in rest.items() if name.startswith(tower.prefix)}
    ours, unknown = (text_keys.from_clip if tower.layout == "clip" else text_keys.from_open_clip)(own)
    if not ours:
        return None
    # Where the projection is there, so is the whole tower that it belongs to.
    last = text_keys.layer_count(ours) - 1
    whole = text_keys.PROJECTION in ours or last + 1 == _WHOLE_TOWER
    if tower.penultimate and whole and last > 0:
        mark = f"{tower.prefix}transformer.resblocks.{last}."
        left_out.setdefault(LAST_LAYER, []).extend(name for name in rest if name.startswith(mark))
        ours = text_keys.without_layer(ours, last)
    unused = [] if tower.projected else [name for name in own if name.startswith("text_projection")]
    if unused:
        ours.pop(text_keys.PROJECTION, None)
    for name in own.keys() - unknown - set(unused):
        rest.pop(tower.prefix + name)
    return StoredText(tower, infer_text_config(ours, tower, where), ours)
