"""Prediction type and zero terminal SNR of a single file, found from its metadata, since no weight says so."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ldm.families.family import Family
from ldm.naming import look_up

_TYPES = {"epsilon": "epsilon", "v_prediction": "v_prediction", "v": "v_prediction"}
_MARKERS = ("v_pred", "ztsnr")
ZERO_SNR_KEY = "ldm.zero_terminal_snr"
_ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}


@dataclass(frozen=True)
class Prediction:
    """What the network of a file predicts.

    Attributes:
        prediction_type: `epsilon`, `v_prediction`, or None where it is unknown.
        zero_terminal_snr: whether the noise has zero terminal SNR.
        source: what says so.
    """

    prediction_type: str | None
    zero_terminal_snr: bool
    source: str


def prediction_of(
    family: Family,
    channels: int,
    names: Collection[str],
    metadata: Mapping[str, str],
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
) -> Prediction:
    """The caller's word if there is one, else marker keys, else the file's metadata, else what the family always is.

    Args:
        family: of the model.
        channels: of the U-Net's input.
        names: of all entries of the file, marker keys included.
        metadata: of the file's header.
        prediction_type: as the caller gave it.
        zero_terminal_snr: as the caller gave it.

    Raises:
        ValueError: an unknown type, or epsilon with zero terminal SNR.
    """
    requested = None if prediction_type is None else look_up("prediction_type", prediction_type, _TYPES)
    found, source = _found(family, channels, names, metadata)
    zero = zero_terminal_snr
    if zero is None:
        zero = "ztsnr" in names or metadata.get(ZERO_SNR_KEY) == "true"
    kind = requested or found
    if zero and kind == "epsilon":
        if zero_terminal_snr is None and requested:
            zero = False  # the caller overrules the file's marker as a whole
        else:
            raise ValueError(
                "zero_terminal_snr=True with prediction_type='epsilon' has no answer where there is no signal; "
                "use prediction_type='v_prediction'"
            )
    return Prediction(kind, zero, "requested" if requested else source)


def _found(
    family: Family, channels: int, names: Collection[str], metadata: Mapping[str, str]
) -> tuple[str | None, str]:
    if any(marker in names for marker in _MARKERS):
        return "v_prediction", f"key {next(marker for marker in _MARKERS if marker in names)}"
    stated = _TYPES.get(metadata.get("modelspec.prediction_type", "").strip().lower())
    if stated:
        return stated, "metadata modelspec.prediction_type"
    stated = _ARCHITECTURES.get(metadata.get("modelspec.architecture", "").strip().lower().split("/")[0])
    if stated and family.name == "sd2":
        return stated, "metadata modelspec.architecture"
    if family.prediction_type:
        return family.prediction_type, f"every {family.title} without a marker"
    if channels != family.unet.in_channels:
        return "epsilon", f"every {family.title} with {channels} input channels"
    return None, "nothing in the file"
