"""Single-file checkpoints, opened: `load_single_file(path)` gives a whole model, offline."""

from pathlib import Path

import torch

from autoencoder.latent_format import LatentFormat
from conditioning.clip.clip_text import ClipText
from conditioning.clip.pair import clip_encoder
from ldm.families.kinds import UPSCALING
from ldm.families.parts import Defaults, LowResolution, ModelParts, SchedulerSettings
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.pipelines import is_xl, usual_guidance_scale, with_usual_preview
from ldm.io.single_file.checkpoint import Checkpoint, StoredText, read_checkpoint
from ldm.io.single_file.text_config import build_text, build_tokenizer
from ldm.io.tensors.load_weights import FILE_PLAN, load_weights
from ldm.io.vae import StoredAutoencoder
from ldm.networks.unet import UNet


def load_single_file(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
    family: str | None = None,
    ema: bool = False,
    vae: StoredAutoencoder | None = None,
) -> ModelParts:
    """Open a single-file checkpoint of any Stable Diffusion family: `.safetensors`, or `.ckpt` with tensors only.

    Args:
        path: of the file.
        dtype: of text encoders and U-Net, and of the autoencoder, which stays fp32 where `dtype` is fp16.
        prediction_type: `epsilon` or `v_prediction`, in place of what the file says.
        zero_terminal_snr: whether the noise has zero terminal SNR, in place of what the file says.
        family: a key of `FAMILIES`, in place of the one that the weights show.
        ema: take the moving average of the U-Net, if the file has one beside it.
        vae: in place of the file's autoencoder, which may be missing then.

    Raises:
        ModelFileError: a file that is damaged, of another kind, or not whole.
        ValueError: options that do not fit, or nothing decides between epsilon and v-prediction (SD 2).
    """
    checkpoint = read_checkpoint(
        path, prediction_type=prediction_type, zero_terminal_snr=zero_terminal_snr, family=family, ema=ema
    )
    return model_of(checkpoint, dtype, vae)


def model_of(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, vae: StoredAutoencoder | None = None
) -> ModelParts:
    """The whole model of a checkpoint, in eval mode, without gradients, on the CPU. See `load_single_file`."""
    where, own = checkpoint.where, checkpoint.autoencoder_config
    if vae is None and own is None and len(checkpoint.missing) == 1:
        raise ModelFileError(f"{where} is {checkpoint.title} without the autoencoder; name one with --vae FILE (vae=)")
    if vae is None and own is not None:
        vae = StoredAutoencoder(where, own, checkpoint.autoencoder)
    if vae is None or len(checkpoint.texts) < len(checkpoint.family.towers):
        raise ModelFileError(
            f"{where} is {checkpoint.title} without {' and '.join(checkpoint.missing)}; `ldm convert {where} FOLDER "
            "--to hf` writes what it has, to be put into a folder of such a model"
        )
    settings = settings_for(checkpoint)
    config, family = checkpoint.unet_config, checkpoint.family
    width = sum(text.config.width for text in checkpoint.texts)
    if config.context_dim != width:
        raise ModelFileError(
            f"{where}: its U-Net reads tokens {config.context_dim} wide, its text encoders give {width}"
        )
    steady = torch.float32 if dtype == torch.float16 else dtype
    unet = load_weights(lambda: UNet(config), checkpoint.unet, where, dtype, FILE_PLAN)
    size = family.size_v if settings.prediction_type == "v_prediction" else family.size
    return ModelParts(
        text=clip_encoder([_tower(text, where, dtype, is_xl(config)) for text in checkpoint.texts]),
        unet=unet,
        autoencoder=vae.load(steady),
        latent_format=vae.format_for(
            with_usual_preview(
                LatentFormat(
                    scale=family.latent_scale,
                    channels=config.out_channels,
                    factor=(own or vae.config).factor,
                ),
                config,
            )
        ),
        process=settings.process,
        prediction_type=settings.prediction_type,
        defaults=Defaults(
            size,
            size,
            guidance_scale=usual_guidance_scale(config),
            sampler=settings.sampler,
            schedule=settings.schedule,
            sampler_options=settings.sampler_options,
            schedule_options=settings.schedule_options,
        ),
        zeros_for_empty=family.zeros_for_empty,
        low_resolution=LowResolution() if checkpoint.kind == UPSCALING else None,
    )


def _tower(text: StoredText, where: str, dtype: torch.dtype, xl: bool) -> ClipText:
    tokenizer = build_tokenizer(text.config)
    if text.config.vocabulary < len(tokenizer):
        raise ModelFileError(
            f"{where}: its text encoder knows {text.config.vocabulary} tokens, CLIP's vocabulary has {len(tokenizer)}"
        )
    return ClipText(tokenizer, build_text(text.config, text.weights, where, dtype), penultimate=xl)


def settings_for(checkpoint: Checkpoint) -> SchedulerSettings:
    """Noise, prediction type, and how the family's published models are sampled.

    Raises:
        ValueError: nothing says what the network predicts.
    """
    prediction = checkpoint.prediction
    if prediction.prediction_type is None:
        raise ValueError(
            f"{checkpoint.where} is {checkpoint.title}, of which some models predict epsilon (512 pixels) and "
            "others v (768 pixels), with the same names; say which with "
            "prediction_type='epsilon' or prediction_type='v_prediction' (--prediction on the command line)"
        )
    return checkpoint.family.settings(prediction.prediction_type, prediction.zero_terminal_snr)
