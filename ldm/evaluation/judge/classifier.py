"""The judge: a small residual network that names what is in a picture, and in which style, number and place.

It is trained on every real picture, the held-out cells included: the judge may see everything that is real, the
generator may not, and a judge that had never seen a held-out cell could not say whether a generated one is right. It
shares nothing with the model it judges, neither CLIP nor captions: it learns names from the data set's own fields.

Things of a scene are looked at one by one, in windows of half the picture's size (`VIEWS`). The style is read twice:
once with the true concept given, where the judge compares the picture with this thing's drawings in all styles, and
once without it, where it does so with everything that the picture may be. Icon sets differ in little else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.engine.precision import best_dtype
from ldm.evaluation.judge.expected import VIEWS, Expected, Place, known_labels
from ldm.evaluation.resizing import resize
from ldm.io.disk.files import ModelFileError, read_json, write_json
from ldm.io.folder.folder_weights import folder_weights

HEADS = ("concept", "style", "count", "background")
UNKNOWN = -1
_BATCH = 16  # pictures; up to ten views of each
_DRAWING_DIM = 128
Twins = Mapping[tuple[str, str], tuple[str, ...]]
_STEM = "judge"


@dataclass(frozen=True)
class Vocabulary:
    """The classes of the judge; a head with fewer than two names is left out.

    Attributes:
        concept, style, background: names; count: numbers as text.
    """

    concept: tuple[str, ...]
    style: tuple[str, ...]
    count: tuple[str, ...]
    background: tuple[str, ...]

    @classmethod
    def of(cls, metas: Iterable[Mapping[str, Any]]) -> "Vocabulary":
        """The names that occur in pictures' json."""
        found: dict[str, set[str]] = {head: set() for head in HEADS}
        for meta in metas:
            for head, names in known_labels(meta).items():
                found[head].update(names)
        return cls(**{head: tuple(sorted(names)) for head, names in found.items()})

    def names(self, head: str) -> tuple[str, ...]:
        """The names of one head."""
        return getattr(self, head)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads with at least two classes."""
        return tuple(head for head in HEADS if len(self.names(head)) > 1)


@dataclass(frozen=True)
class Verdict:
    """The judge's classes for one picture. A head that the judge does not have gives an empty tuple.

    Attributes:
        concepts: of every thing, in the order of `Expected.concepts`, the best five names, best first.
        style: best five first.
        style_of_thing: the same, with the true concepts given.
        count, background: best five first.
    """

    concepts: tuple[tuple[str, ...], ...]
    style: tuple[str, ...]
    style_of_thing: tuple[str, ...]
    count: tuple[str, ...]
    background: tuple[str, ...]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and an average-pooled shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.relu(h + (x if self.shortcut is None else self.shortcut(x)))


class JudgeNetwork(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of 32, to logits (B, names) of every head.

    `style_of_thing` is the style's logits for whoever knows the concept: what speaks for a style in any picture, and
    what speaks for the drawing of this concept in this style.

    Args:
        widths: channels of the levels; the first works at 1/2 of the picture, each further one at half the last.
        vocabulary: gives the heads.
    """

    def __init__(self, widths: Sequence[int], vocabulary: Vocabulary) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairs)))
        self.heads = nn.ModuleDict(
            {head: nn.Linear(4 * widths[-1], len(vocabulary.names(head))) for head in vocabulary.heads}
        )
        self.styles = len(vocabulary.style) if {"concept", "style"} <= set(vocabulary.heads) else 0
        if self.styles:
            self.drawing = nn.Linear(4 * widths[-1], _DRAWING_DIM)
            self.drawings = nn.Embedding(len(vocabulary.concept), self.styles * _DRAWING_DIM)
            nn.init.zeros_(self.drawings.weight)

    def forward(self, x: Tensor, concept: Tensor) -> dict[str, Tensor]:
        """x: (B, 3, H, W) in [-1, 1]; concept: (B,) its number, or `UNKNOWN` -> logits by head and `style_of_thing`."""
        return self._logits(self._pooled(x), concept)

    def beliefs(self, x: Tensor, concept: Tensor) -> dict[str, Tensor]:
        """The same as shares that sum to 1, fp32; `style` is that of each concept, weighted by what it believes in."""
        pooled = self._pooled(x)
        shares = {head: values.float().softmax(1) for head, values in self._logits(pooled, concept).items()}
        if self.styles:
            drawings = self.drawings.weight.unflatten(1, (self.styles, _DRAWING_DIM))
            own = torch.einsum("bd,csd->bcs", self.drawing(pooled), drawings)
            of_thing = (self.heads["style"](pooled)[:, None] + own).float().softmax(2)
            shares["style"] = (shares["concept"][..., None] * of_thing).sum(1)
        return shares

    def _pooled(self, x: Tensor) -> Tensor:
        """Features (B, 4 D) of the picture's quarters: where a part is matters in drawings."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)

    def _logits(self, pooled: Tensor, concept: Tensor) -> dict[str, Tensor]:
        logits = {head: layer(pooled) for head, layer in self.heads.items()}
        if self.styles:
            known = self.drawings(concept.clamp(min=0)).unflatten(1, (self.styles, _DRAWING_DIM))
            own = (known * self.drawing(pooled)[:, None]).sum(2)
            logits["style_of_thing"] = logits["style"] + own * (concept != UNKNOWN)[:, None]
        return logits


class Judge:
    """A trained network with the names of its outputs.

    Args:
        network: moved to `device` and set to eval mode.
        vocabulary: that the network was built with.
        size: height and width in pixels at which pictures and their windows are looked at.
        widths: of the network.
        twins: by concept and style, further concepts that this style draws to the pixel alike ("man walking" and
            "person walking"): naming one of them is not an error.
    """

    def __init__(
        self, network: JudgeNetwork, vocabulary: Vocabulary, size: int, widths: Sequence[int], twins: Twins
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.vocabulary, self.size, self.widths, self.twins = vocabulary, size, tuple(widths), twins
        self._numbers = {name: number for number, name in enumerate(vocabulary.concept)}

    def classify(self, images: Tensor, expected: Sequence[Expected]) -> list[Verdict]:
        """One verdict for each picture.

        Args:
            images: (B, 3, H, W) in [-1, 1] of any size.
            expected: says where to look and, for `style_of_thing` alone, the concepts.
        """
        verdicts = []
        for start in range(0, len(images), _BATCH):
            batch = expected[start : start + _BATCH]
            large = resize(images[start : start + _BATCH], 2 * self.size)
            views = [
                (picture[None], place, one.concepts[thing] if thing is not None else None)
                for picture, one in zip(large, batch, strict=True)
                for place, thing in VIEWS[one.arrangement]
            ]
            shares = self._shares([look(*view[:2]) for view in views], [concept for *_, concept in views])
            for one in batch:
                count = len(VIEWS[one.arrangement])
                verdicts.append(self._verdict({head: values[:count] for head, values in shares.items()}, one))
                shares = {head: values[count:] for head, values in shares.items()}
        return verdicts

    @torch.no_grad()
    def _shares(self, views: list[Tensor], concepts: list[str | None]) -> dict[str, Tensor]:
        """By head, what the network believes of views (1, 3, S, S): (V, names), rows sum to 1."""
        dtype = best_dtype(self.device)
        images = torch.cat(views).to(self.device).contiguous(memory_format=torch.channels_last)
        of_thing = torch.tensor([self._numbers.get(name or "", UNKNOWN) for name in concepts], device=self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return {head: value.cpu() for head, value in self.network.beliefs(images, of_thing).items()}

    def _verdict(self, shares: dict[str, Tensor], expected: Expected) -> Verdict:
        """Number and background by the whole; the rest by all views of one thing, which count alike."""
        things = [thing for _, thing in VIEWS[expected.arrangement]]

        def best(head: str, rows: list[bool], names: str | None = None) -> tuple[str, ...]:
            known = self.vocabulary.names(names or head)
            if head not in shares:
                return ()
            return tuple(known[j] for j in shares[head][rows].mean(0).topk(min(5, len(known))).indices.tolist())

        first, any_thing = [number == 0 for number in range(len(things))], [thing is not None for thing in things]
        return Verdict(
            concepts=tuple(
                best("concept", [thing == number for thing in things]) for number in range(len(expected.concepts))
            ),
            style=best("style", any_thing),
            style_of_thing=best("style_of_thing", any_thing, "style"),
            count=best("count", first),
            background=best("background", first),
        )

    def save(self, folder: Path, notes: Mapping[str, Any]) -> None:
        """Write `judge.safetensors` and `judge.json` into the existing `folder`; `notes` are kept with it."""
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / f"{_STEM}.safetensors")
        about = {
            "size": self.size,
            "widths": self.widths,
            "notes": dict(notes),
            "twins": [[*drawing, *names] for drawing, names in self.twins.items()],
            "vocabulary": asdict(self.vocabulary),
        }
        write_json(folder / f"{_STEM}.json", about)

    @classmethod
    def load(cls, folder: Path) -> "tuple[Judge, dict[str, Any]]":
        """The judge that `save` wrote, and its notes.

        Raises:
            ModelFileError: missing or damaged files.
        """
        about = read_json(folder / f"{_STEM}.json")
        try:
            vocabulary = Vocabulary(**{head: tuple(about["vocabulary"][head]) for head in HEADS})
            network = JudgeNetwork(about["widths"], vocabulary)
            weights = {name: weight.read(None) for name, weight in folder_weights(folder, _STEM).items()}
            network.load_state_dict(weights)
            twins = {(concept, style): tuple(names) for concept, style, *names in about["twins"]}
            return cls(network, vocabulary, about["size"], about["widths"], twins), about["notes"]
        except (KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelFileError(f"{folder} does not hold a judge ({reason}); delete it to train one anew") from None


def look(images: Tensor, place: Place) -> Tensor:
    """images (B, 3, 2S, 2S) -> the whole or a window of them, (B, 3, S, S)."""
    size = images.shape[-1] // 2
    if place is None:
        return resize(images, size)
    top, left = place[0] * size // 2, place[1] * size // 2
    return images[..., top : top + size, left : left + size]
