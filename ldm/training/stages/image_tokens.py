"""After stage 2: a text tower whose further tokens say what is where in the picture."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from conditioning.clip.clip_text import ClipText
from conditioning.training.image_tokens import ImageTokenConfig, ImageTokenObjective, ImageTokenTower
from conditioning.training.tower_shapes import shortened
from ldm.data.cache.latents import LatentDataset
from ldm.io.folder.autoencoder import load_autoencoder
from ldm.io.folder.load import load_text
from ldm.io.folder.text_encoder import save_text_encoder
from ldm.io.locate import resolve_model
from ldm.progress import Progress, silent
from ldm.training.batches.loader import spread_batch
from ldm.training.config import LoopConfig
from ldm.training.objectives.base import Dataset
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import DataConfig, kinds_known, open_pictures, require_squares, sentences_beside

_FITTED = 2048
"""Pictures that the head is fitted to: 16 equations of each for 257 unknowns."""


@dataclass(frozen=True)
class ImageTokenRun:
    """After stage 2, for small denoisers: a text tower that also says what is where in the picture.

    Attributes:
        text: export folder of stage 2; empty keeps the words of `initial` as they are there.
        initial: export folder of such a training of `text`, to go on from; empty starts from `text`.
        autoencoder: export folder of stage 1, whose latents the tokens show; empty shows pixels.
        styles: as of the `clip` task; with `words.txt` they make the sentences whose words are kept in place.
    """

    task: str = "image_tokens"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    text: str = ""
    initial: str = ""
    autoencoder: str = ""
    image_tokens: ImageTokenConfig = field(default_factory=ImageTokenConfig)
    styles: tuple[str, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require_squares(self.data, "the picture of the image tokens is a square")

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`."""
        train_set, previews = open_pictures(self.data, self.output, captioned=True, progress=progress)
        if unknown := sorted(set(self.image_tokens.keep_kinds) - train_set.kinds):
            names = ", ".join(unknown)
            raise ValueError(f"image_tokens.keep_kinds: no picture is of kind {names}; {kinds_known(train_set)}")
        autoencoder = self._autoencoder()
        objective = self._objective(autoencoder, sentences_beside(self.data, self.styles))
        dataset: Dataset = train_set
        preview_dataset: Dataset = previews
        if autoencoder is not None:
            autoencoder = autoencoder.to(device)
            dataset = LatentDataset(train_set, autoencoder, train_set.cache, progress=progress)
            preview_dataset = LatentDataset(previews, autoencoder, previews.cache, progress=progress)
        if self.initial:
            objective.fit_head(spread_batch(dataset, _FITTED, self.loop.seed, torch.device("cpu")))
        return Stage(objective, dataset, preview_dataset, partial(write_image_token_tower, objective))

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`.

        Raises:
            FileNotFoundError: `text` or `initial` is not there.
            ValueError: a text encoder has several towers; see also `ImageTokenObjective`.
        """
        tower = self._objective(self._autoencoder()).trained_modules["text"].to("meta")
        return [NetworkEstimate("text", partial(copy.deepcopy, tower), partial(_pass, self.image_tokens))]

    def _autoencoder(self) -> Autoencoder | None:
        return load_autoencoder(resolve_model("autoencoder", self.autoencoder))[0] if self.autoencoder else None

    def _objective(self, autoencoder: Autoencoder | None, sentences: Sequence[str] = ()) -> ImageTokenObjective:
        if not (self.text or self.initial):
            raise ValueError("text: there is no text tower to train; name one, or with initial= one to go on from")
        initial = _text_tower("initial", self.initial) if self.initial else None
        if initial is not None and not self.text:
            text = shortened(initial, self.image_tokens.cells**2)
        else:
            text = _text_tower("text", self.text)
        if autoencoder is None:
            return ImageTokenObjective(text, self.image_tokens, sentences, initial)
        channels = autoencoder.config.code_channels
        return ImageTokenObjective(text, self.image_tokens, sentences, initial, channels, autoencoder.decode)


def write_image_token_tower(objective: ImageTokenObjective, folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write `tokenizer/` and `text_encoder/` as Stable Diffusion folders have them."""
    tower = modules["text"]
    assert isinstance(tower, ImageTokenTower)
    save_text_encoder(ClipText(objective.tokenizer, tower.model), folder, None)


def _text_tower(setting: str, source: str) -> ClipText:
    text = load_text(resolve_model(setting, source))
    if not isinstance(text, ClipText):
        raise ValueError(
            f"{setting}={source} has {len(text.towers)} text towers, and one is trained; name a model with one"
        )
    return text


def _pass(config: ImageTokenConfig, tower: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of a text tower with image tokens, without the tower that it was."""
    assert isinstance(tower, ImageTokenTower)
    texts = samples + round(samples * config.sentences)
    length = tower.model.config.max_position_embeddings
    states, pictures = tower(torch.zeros(texts, length, dtype=torch.long, device=device))
    return states[:, : -(config.cells**2)].float().square().mean() + pictures[:samples].float().square().mean()
