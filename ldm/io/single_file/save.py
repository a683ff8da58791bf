"""A `Checkpoint` written as a single file in the published layout, tensor by tensor."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from autoencoder.kl import KLAutoencoder
from ldm.io.keys import autoencoder_keys, text_keys
from ldm.io.keys.rename import inverse, rename
from ldm.io.keys.unet_keys import UNetPlan, unet_modules
from ldm.io.single_file.checkpoint import AUTOENCODER, UNET, Checkpoint
from ldm.io.single_file.prediction import ZERO_SNR_KEY
from ldm.io.single_file.text_config import text_meta
from ldm.io.tensors.load_weights import FILE_PLAN, check_fit, on_meta
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.weights import LazyTensor, Weights, cast, in_memory
from ldm.networks.unet import UNet

Advance = Callable[[int], None]


def save_single_file(
    checkpoint: Checkpoint,
    path: Path,
    dtype: torch.dtype | None = None,
    advance: Advance = lambda size: None,
) -> None:
    """Write a model as one safetensors file that every Stable Diffusion program opens, atomically.

    The last layer of SD 2's text encoder, which is never run, is in the file only if it was in the source.

    Args:
        checkpoint: the model.
        path: of the file.
        dtype: of the weights in the file; None keeps what they are in.
        advance: gets the bytes of each weight that is written.

    Raises:
        ModelFileError: weights that do not fit.
        ValueError: what the layout cannot hold.
        OSError: the file cannot be written.
    """
    check_whole(checkpoint)
    weights = {name: cast(weight, dtype) for name, weight in single_file_weights(checkpoint).items()}
    write_safetensors(path, weights, single_file_metadata(checkpoint), advance)


def single_file_weights(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """All weights by the names of the published layout, and SDXL's marker keys for v-prediction."""
    modules = inverse(unet_modules(UNetPlan.of(checkpoint.unet_config)))
    weights = {UNET + _place(name, modules): weight for name, weight in checkpoint.unet.items()}
    if checkpoint.autoencoder_config is not None:
        autoencoder = autoencoder_keys.to_file(checkpoint.autoencoder, checkpoint.autoencoder_config)
        weights |= {AUTOENCODER + name: weight for name, weight in autoencoder.items()}
    for text in checkpoint.texts:
        named = text.weights if text.tower.layout == "clip" else text_keys.to_open_clip(text.weights)
        weights |= {text.tower.prefix + name: weight for name, weight in named.items()}
    if checkpoint.family.name == "sdxl" and checkpoint.prediction.prediction_type == "v_prediction":
        weights["v_pred"] = in_memory(torch.zeros(0))
        if checkpoint.prediction.zero_terminal_snr:
            weights["ztsnr"] = in_memory(torch.zeros(0))
    return weights


def single_file_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Metadata that the weights do not contain, by Stability AI's ModelSpec 1.0, and its source."""
    family, prediction = checkpoint.family, checkpoint.prediction
    with_v = prediction.prediction_type == "v_prediction"
    size = family.size_v if with_v else family.size
    ending = {"sd2": "-768-v" if with_v else "-512"}.get(family.name, "")
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.architecture + ending,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": checkpoint.title,
        "modelspec.resolution": f"{size}x{size}",
        **{f"ldm.load_options.{name}": value for name, value in checkpoint.load_options.items()},
    }
    if prediction.prediction_type is not None:
        metadata["modelspec.prediction_type"] = "v" if with_v else "epsilon"
    if prediction.zero_terminal_snr:
        metadata[ZERO_SNR_KEY] = "true"
    return metadata


def check_whole(checkpoint: Checkpoint) -> None:
    """Raise ModelFileError unless each network that is there has exactly the weights that its config describes."""
    where, autoencoder_config = checkpoint.where, checkpoint.autoencoder_config
    _check(on_meta(lambda: UNet(checkpoint.unet_config)), checkpoint.unet, where)
    if autoencoder_config is not None:
        _check(on_meta(lambda: KLAutoencoder(autoencoder_config)), checkpoint.autoencoder, where)
    for text in checkpoint.texts:
        _check(text_meta(text.config), text_keys.in_memory_names(text.weights), where)


def _check(network: torch.nn.Module, weights: Weights, where: str) -> None:
    check_fit({name: tuple(value.shape) for name, value in network.state_dict().items()}, weights, where, FILE_PLAN)


def _place(name: str, modules: Mapping[str, str]) -> str:
    new = rename(name, modules)
    if new is None:
        raise ValueError(f"{name} has no place in a single file")
    return new
