"""What the stages that work on latents have in common: settings of data and caches, and how the data is opened."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from conditioning.prompt.words import words_of
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.latents import LatentDataset
from ldm.data.cache.text_states import CACHE_TEXT, TextStates, caption_bytes
from ldm.data.pictures.dataset import PictureDataset
from ldm.engine.precision import DTYPES
from ldm.io.disk.files import size_in_words
from ldm.naming import look_up
from ldm.networks.unet import UNetConfig
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.objectives.base import Dataset
from ldm.training.objectives.latent_batches import FrozenParts
from ldm.training.stages.datasets import DataConfig, open_pictures

_TOKENS = 77  # that CLIP reads
_MOST_WORDS, _MOST_PICTURES = 50_000, 1_000_000


@dataclass(frozen=True)
class LatentRun:
    """Settings of a stage that trains on latents of pictures and on states of their captions.

    Attributes:
        export_dtype: of the exported weights, fp32, fp16 or bf16.
        cache_latents: encode every picture once and keep the latents on disk; else in every step, as random crops need.
        cache_text: the same for captions and the text encoder: true, false, or auto, which does so where the training
            uses more captions than there are and they take at most `cache_text_gb`.
        cache_text_gb: most gigabytes (10⁹ bytes) that token states may take on disk.
    """

    task: str = ""
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    export_dtype: str = "fp32"
    cache_latents: bool = True
    cache_text: str = "auto"
    cache_text_gb: float = 4.0
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.cache_latents and self.data.crop_fraction:
            raise ValueError(
                f"data.crop_fraction={self.data.crop_fraction} is for random crops, whose latents cannot be cached; "
                "use cache_latents=false, or crop_fraction=0"
            )
        object.__setattr__(self, "cache_text", self.cache_text.lower())  # YAML's true becomes "True"
        look_up("cache_text", self.cache_text, dict.fromkeys(CACHE_TEXT))
        look_up("export_dtype", self.export_dtype, DTYPES)
        if self.cache_latents and self.data.augment.changes_pixels:
            raise ValueError(
                "data.augment changes pictures (flip, crop_scale or colour), whose latents cannot be cached; "
                "use cache_latents=false, or vary captions alone"
            )
        if self.cache_text == "true" and self.data.augment.changes_captions:
            raise ValueError(
                "data.augment changes captions (shuffle_tags or drop_tags), whose states cannot be cached; "
                "use cache_text=false"
            )

    def open_data(
        self,
        frozen: FrozenParts,
        num_classes: int | None,
        device: torch.device,
        progress: Progress = silent,
        also_pictures: bool = False,
    ) -> tuple[FrozenParts, Dataset, Dataset]:
        """The parts with cached token states, the data that is trained on, and the held-out data for previews.

        Args:
            frozen: the finished parts of the model.
            num_classes: of a network that is conditioned on labels of the pictures; None for any other.
            device: where the networks run that fill caches.
            progress: of what is cached now.
            also_pictures: give the pictures beside their latents.
        """
        train_set, previews = open_pictures(self.data, self.output, frozen.text is not None, progress, num_classes)
        if frozen.text is not None:
            states = self._text_states(frozen.text, [train_set, previews], device, progress)
            frozen = replace(frozen, states=states, words=_with_words_of(frozen.words, train_set))
        if not self.cache_latents:
            return frozen, train_set, previews
        autoencoder = frozen.autoencoder.to(device)
        preview_latents, train_latents = (
            LatentDataset(each, autoencoder, each.cache, also_pictures, progress) for each in (previews, train_set)
        )
        return frozen, train_latents, preview_latents

    def _text_states(
        self, text: TextEncoder, pictures: Sequence[PictureDataset], device: torch.device, progress: Progress
    ) -> TextStates | None:
        """The cached text states of all captions, if this run caches them."""
        if self.cache_text == "false" or self.data.augment.changes_captions:
            return None
        captions = sorted({caption for each in pictures for caption in each.all_captions()})
        size = len(captions) * caption_bytes(text)
        fits = size <= 1e9 * self.cache_text_gb
        if self.cache_text == "auto" and not (fits and self.loop.samples > len(captions)):
            return None
        if not fits:
            raise ValueError(
                f"cache_text=true: the states of {len(captions):,} captions take {size_in_words(size)}, more than"
                f" cache_text_gb={self.cache_text_gb:g}; raise that, or use cache_text=false"
            )
        return TextStates(text, captions, pictures[0].cache, device, progress)


def _with_words_of(words: frozenset[str] | None, pictures: PictureDataset) -> frozenset[str] | None:
    """Known words with those of all captions; None where they are not known, or too many to be a small model's."""
    if words is None or len(pictures) > _MOST_PICTURES:
        return None
    joined = words | words_of(pictures.all_captions())
    return joined if len(joined) <= _MOST_WORDS else None


def denoising_pass(config: UNetConfig, size: int, unet: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a denoiser on latents of `size`."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(samples, *shape, device=device)

    conditioning = Conditioning(
        tokens=numbers(_TOKENS, config.context_dim) if config.context_dim is not None else None,
        labels=numbers().long() if config.num_classes is not None else None,
        pooled=numbers(config.pooled_dim) if config.pooled_dim is not None else None,
        sizes=numbers(config.size_count) if config.pooled_dim is not None else None,
    )
    output = unet(numbers(config.in_channels, size, size), numbers(), conditioning)
    return output.float().square().mean()
