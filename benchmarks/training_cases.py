"""What a training step is timed on: models, and pictures and a caption for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip.clip_text import ClipText
from ldm.families.parts import Defaults, ModelParts
from ldm.io.folder.load import load_folder
from ldm.networks.unet import UNet, UNetConfig
from ldm.process import DiscreteVP
from ldm.training.objectives.base import Batch

CAPTION = "a red apple beside two green pears on a blue background, 3d style"
_EMOJI = Path(__file__).parent.parent / "ldm" / "models" / "emoji"
_PROCESS = DiscreteVP("scaled_linear", beta_start=0.00085, beta_end=0.012)


@dataclass(frozen=True)
class Case:
    """A model and a batch: `make` builds the parts, `size` is the edge of the pictures in pixels."""

    make: Callable[[], ModelParts]
    size: int
    batch: int


def emoji() -> ModelParts:
    """The shipped model, with a U-Net of its shape that predicts noise."""
    return replace(load_folder(_EMOJI), process=_PROCESS, prediction_type="epsilon")


def half_sd() -> ModelParts:
    """Stable Diffusion 1.5 with half of all widths: 216 M parameters, random."""
    unet = UNetConfig(widths=(160, 320, 640, 640), context_dim=384)
    return random_parts(unet, AutoencoderConfig(widths=(64, 128, 256, 256)), layers=12, size=256)


def random_parts(unet: UNetConfig, autoencoder: AutoencoderConfig, layers: int, size: int) -> ModelParts:
    """A model with random weights, whose text tower has `layers` layers as wide as the U-Net's tokens."""
    from conditioning.clip.transformer import ClipTextConfig, ClipTextModel
    from conditioning.clip.vocabulary import clip_tokenizer

    torch.manual_seed(0)
    width = unet.context_dim or 0
    text = ClipTextModel(
        ClipTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(width // 64, 1),
            pad_token_id=49407,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    return ModelParts(
        text=ClipText(clip_tokenizer(), text.eval().requires_grad_(False)),
        unet=UNet(unet),
        autoencoder=KLAutoencoder(autoencoder),
        latent_format=LatentFormat(0.18215, factor=2 ** (len(autoencoder.widths) - 1)),
        process=_PROCESS,
        prediction_type="epsilon",
        defaults=Defaults(size, size),
    )


CASES = {"emoji": Case(emoji, 64, 64), "sd-half": Case(half_sd, 256, 4)}


class Pictures:
    """Noise as pictures, or as the moments of their latents, all with one caption.

    Args:
        case: size and number.
        parts: which autoencoder.
        cached: give moments.
    """

    def __init__(self, case: Case, parts: ModelParts, cached: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        edge = case.size // parts.latent_format.factor
        latent = (parts.latent_format.channels, edge, edge)
        shapes = {"mean": latent, "std": latent} if cached else {"image": (3, case.size, case.size)}
        self.weights = np.ones(case.batch)
        self._items = [
            {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()} for _ in self.weights
        ]

    def __len__(self) -> int:
        return len(self._items)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """A sample, as `ldm.training.objectives.base.Dataset` says."""
        return {**self._items[index], "caption": CAPTION}

    def batch(self, device: torch.device) -> Batch:
        """All of them, as the trainer's feed collates them."""
        batch = default_collate([{**self.item(i, torch.Generator()), "index": i} for i in range(len(self))])
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
