"""Image tokens: a text tower whose states behind the words predict a small copy of the picture, cell by cell.

In cross-attention every place of a picture looks up the words that concern it, and a small denoiser needs very many
samples to learn what each word looks like at each place. A text tower learns the same from far fewer operations: its
context ends in cells x cells more tokens, padding as far as the tokenizer is concerned, and the state of each gives
back one cell of a small copy of the picture. A denoiser then finds at every place a token that knows what belongs
there. For any reader this is a CLIP text tower with a longer context.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conditioning.clip.clip_text import ClipText
from conditioning.clip.transformer import ClipTextModel
from conditioning.training.tower_shapes import lengthened, refined, widen

_NO_DIFFERENCE = 0.01
"""Of states, as good as none: what BOS says is the same of all texts."""


@dataclass(frozen=True)
class ImageTokenConfig:
    """How the tower sketches.

    Attributes:
        cells: tokens along each edge of the sketch; cells * cells tokens are added to the tower's context.
        size: edge of the sketch, in pixels or latent cells, a multiple of `cells`.
        anchor_weight: weight of the terms that keep states where they were, of words and of `keep_kinds`.
        sentences: sentences without picture per picture, in [0, 1], whose words are kept in place too.
        feed_forward: numbers inside each feed-forward layer, where a tower remembers; 0 keeps the tower's own.
        keep_kinds: kinds of pictures that are not sketched when a tower goes on: what it says of them stays, image
            tokens too, and so does what it says of the sentences.
    """

    cells: int = 4
    size: int = 32
    anchor_weight: float = 1.0
    sentences: float = 0.1
    feed_forward: int = 0
    keep_kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cells < 1 or self.size % self.cells:
            raise ValueError(f"image_tokens.size={self.size} must be a multiple of image_tokens.cells={self.cells}")
        if not 0 <= self.sentences <= 1:
            raise ValueError(f"image_tokens.sentences={self.sentences} is no share; use a number from 0 to 1")


class ImageTokenTower(nn.Module):
    """A text tower with a linear head on the states of its last cells * cells tokens."""

    model: ClipTextModel

    def __init__(self, model: ClipTextModel, config: ImageTokenConfig, channels: int = 3) -> None:
        """Wrap a tower.

        Args:
            model: with the cells in its context, see `lengthened`.
            config: of the training.
            channels: of what is sketched, 3 for pictures.
        """
        super().__init__()
        self.model = model
        self.config, self.channels = config, channels
        cell = config.size // config.cells
        self.head = nn.Linear(model.config.hidden_size, channels * cell * cell)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids: (B, L), padded to the whole context. Returns states (B, L, D) and sketches (B, C, size, size)."""
        cells = self.config.cells
        states = self.model(ids).last_hidden_state
        pixels = self.head(states[:, -cells * cells :])
        cell = self.config.size // cells
        grid = pixels.unflatten(2, (self.channels, cell, cell)).unflatten(1, (cells, cells))
        return states, grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    @torch.no_grad()
    def fit_head(self, ids: Tensor, sketched: Tensor) -> None:
        """Make the head read `sketched` (B, C, size, size) from the states of `ids` (B, L), by least squares."""
        cells, cell = self.config.cells, self.config.size // self.config.cells
        states = torch.cat([self.model(some).last_hidden_state[:, -cells * cells :] for some in ids.split(256)])
        known = F.pad(states.flatten(0, 1).cpu().double(), (0, 1), value=1.0)
        grid = sketched.unflatten(3, (cells, cell)).unflatten(2, (cells, cell))
        wanted = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2).cpu().double()
        ridge = 1e-6 * len(known) * torch.eye(known.shape[1], dtype=known.dtype)  # few samples do not determine it
        weights = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted).T
        self.head.weight.copy_(weights[:, :-1])
        self.head.bias.copy_(weights[:, -1])


class ImageTokenObjective:
    """Teaches a finished text tower to sketch: |sketch - picture|^2 + anchor_weight * |states - former states|^2.

    The second term is over the tokens of each text, BOS and EOS included, so that words keep the meaning that CLIP's
    training and its teacher gave them, also those that no picture shows.

    A tower that goes on can learn some kinds of pictures and keep what it says of others (`config.keep_kinds`): for
    these and for the sentences, all states of `start` take the place of the picture (Li and Hoiem 2017, "Learning
    without Forgetting", arXiv:1606.09282). Learnt longer, they would be learnt by heart.

    A tower with fewer cells can go on with more, see `refined`.

    Raises:
        ValueError: `start` has another number of cells, whose cells do not divide into them, or there is no `start` and
            `config.keep_kinds` names some; or `config.feed_forward` is less than the tower has.
    """

    def __init__(
        self,
        text: ClipText,
        config: ImageTokenConfig,
        sentences: Sequence[str] = (),
        start: ClipText | None = None,
        channels: int = 3,
        decode: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        """Copy the tower and lengthen its context.

        Args:
            text: the finished tower, fp32; left as it is.
            config: of the training.
            sentences: texts without pictures.
            start: `text` after such a training, to go on from; left as it is.
            channels: of what is sketched: 3 for pictures, or those of latents.
            decode: latents (B, C, h, w) -> pictures (B, 3, H, W) in [-1, 1], for previews.
        """
        self.config, self._decode = config, decode
        self._sentences = tuple(sentences)
        self._words = text.max_tokens
        self._former, self._start = text, start
        if start is not None:
            self._start = start = _with_cells(start, text.max_tokens, config.cells)
        elif config.keep_kinds:
            raise ValueError(
                f"image_tokens.keep_kinds={list(config.keep_kinds)}: there is no tower yet whose image tokens could be"
                " kept; name one with initial=, or leave this out"
            )
        self._text = lengthened(text, config.cells**2) if start is None else lengthened(start, 0)
        self.tokenizer = self._text.tokenizer
        if config.feed_forward:
            widen(self._text.model, config.feed_forward)
        self.trained_modules: dict[str, nn.Module] = {"text": ImageTokenTower(self._text.model, config, channels)}  # type: ignore[arg-type]

    def loss(
        self, module_name: str, batch: dict[str, Any], generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        """Losses of a batch {"image": (B, 3, H, W) in [-1, 1], "caption": B texts}; `samples_seen` changes nothing.

        Where the batch has latents, `"mean"` (B, C, h, w), these are sketched in place of the picture. Kinds that are
        kept need `"kind"`, B names.

        Keys: loss, image_tokens, anchor, both mean squared errors, and where kinds are kept, kept: a share.
        """
        image = _sketched(batch)
        texts = [*batch["caption"], *self._random_sentences(generators)]
        ids = self._rows(texts).to(image.device)
        states, sketches = self.trained_modules[module_name](ids)
        anchor = self._drift_of_words(texts, states)
        kept = self._is_kept(batch, len(texts)).to(image.device)
        shown = ~kept[: len(image)]
        small = F.adaptive_avg_pool2d(image, self.config.size)
        # Sums over their number, and not means: a batch may have none.
        error = (sketches[: len(image)].float() - small).square().flatten(1).mean(1)
        image_tokens = (error * shown).sum() / shown.sum().clamp(min=1)
        losses = {"image_tokens": image_tokens, "anchor": anchor}
        total = image_tokens + self.config.anchor_weight * anchor
        if self.config.keep_kinds:
            losses["kept"] = self._change(ids[kept], states[kept])
            total = total + self.config.anchor_weight * losses["kept"]
        return {"loss": total, **losses}

    def _is_kept(self, batch: dict[str, Any], texts: int) -> Tensor:
        """Which of the texts, those of the batch and then sentences, keep all their states: bool (texts,)."""
        if not self.config.keep_kinds:
            return torch.zeros(texts, dtype=torch.bool)
        kinds = [kind in self.config.keep_kinds for kind in batch["kind"]]
        return torch.tensor(kinds + [True] * (texts - len(kinds)))

    def _change(self, ids: Tensor, states: Tensor) -> Tensor:
        """How far states (B, L, D) are from what `start` says of the ids (B, L), of how far texts are apart; 0 of none.

        A share at each position, and the mean of these: image tokens differ a tenth as much as words do.
        """
        if not len(ids):
            return states.sum() * 0.0
        assert self._start is not None
        former = _said(self._start, ids.to(states.device))
        apart = (former - former.mean(0)).square().mean((0, 2)).clamp(min=_NO_DIFFERENCE)
        return ((states.float() - former).square().mean((0, 2)) / apart).mean()

    def _drift_of_words(self, texts: Sequence[str], states: Tensor) -> Tensor:
        """Mean squared difference of the tokens of texts, BOS and EOS included, from what they were."""
        former_ids = torch.tensor([self._former.row(self._former.ids(text)) for text in texts])
        former = _said(self._former, former_ids.to(states.device))
        length = former.shape[1]
        ends = former_ids.eq(self._former.tokenizer.eos_token_id).int().argmax(1, keepdim=True)
        spoken = (torch.arange(length) <= ends).to(states.device)
        return (states[:, :length].float() - former).square().mean(2)[spoken].mean()

    def fit_head(self, batch: dict[str, Any]) -> None:
        """Fit the head alone to a batch as of `loss`, so that a tower that goes on keeps what its states mean."""
        tower = self.trained_modules["text"]
        assert isinstance(tower, ImageTokenTower)
        sketched = F.adaptive_avg_pool2d(_sketched(batch), self.config.size)
        tower.fit_head(self._rows(batch["caption"]).to(sketched.device), sketched)

    def preview(self, batch: dict[str, Any], modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """The sketches of the batch's captions, and the pictures beside them."""
        image = _sketched(batch)
        _, sketches = modules["text"](self._rows(batch["caption"]).to(image.device))
        small = {"image_tokens": sketches.float(), "real": F.adaptive_avg_pool2d(image, self.config.size)}
        if "mean" in batch:  # a decoder knows latents of the size that it was trained on
            small = {name: F.interpolate(rows, image.shape[2:]) for name, rows in small.items()}
        return {name: (self._decode(rows).float() / 2 + 0.5).clamp(0, 1) for name, rows in small.items()}

    def _random_sentences(self, generators: list[torch.Generator]) -> list[str]:
        count = round(len(generators) * self.config.sentences) if self._sentences else 0
        picks = (int(torch.randint(len(self._sentences), (), generator=generators[i])) for i in range(count))
        return [self._sentences[pick] for pick in picks]

    def _rows(self, texts: Sequence[str]) -> Tensor:
        """Ids (B, L) of texts that are cut before the cells."""
        return torch.tensor([self._text.row(self._text.ids(text)[: self._words]) for text in texts])


@torch.no_grad()
def _said(text: ClipText, ids: Tensor) -> Tensor:
    """The states (B, L, D) of a frozen tower, fp32, on the device of the ids (B, L)."""
    states = text.to(ids.device).encode_ids(ids).tokens
    assert states is not None
    return states.float()


def _sketched(batch: dict[str, Any]) -> Tensor:
    """What the tokens show: latents where the data give them, else pictures."""
    return batch["mean"] if "mean" in batch else batch["image"]


def _with_cells(start: ClipText, words: int, cells: int) -> ClipText:
    """A tower with cells x cells image tokens after its words: `start`, or a finer one."""
    tokens = start.max_tokens - words
    former = math.isqrt(max(tokens, 0))
    if former == 0 or former**2 != tokens or cells % former:
        raise ValueError(
            f"initial: a tower that reads {start.max_tokens} words does not sketch {cells**2} cells after the "
            f"{words} words of text, nor fewer that could be divided into these; name the export of an `image_tokens`"
            " training of this text tower"
        )
    return start if former == cells else refined(start, former, cells)
