"""The judge: a small residual network that names what is in a picture, and in which style, number and place.

It is trained on every real picture, the held-out cells included: the judge may see everything that is real, the
generator may not, and a judge that had never seen a held-out cell could not say whether a generated one is right. It
shares nothing with the model it judges, neither CLIP nor captions: it learns names from the data set's own fields.
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
from ldm.io.files import ModelFileError, read_json, read_weights, write_json

HEADS = ("concept", "style", "count", "background")
PLAIN_BACKGROUND = "white"
_BATCH = 128
Twins = Mapping[tuple[str, str], tuple[str, ...]]
_STEM = "judge"


@dataclass(frozen=True)
class Vocabulary:
    """What the judge can tell apart; a head with fewer than two names is left out.

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
            for head, names in facts(meta).items():
                found[head].update(names)
        return cls(**{head: tuple(sorted(names)) for head, names in found.items()})

    def names(self, head: str) -> tuple[str, ...]:
        """The names of one head."""
        return getattr(self, head)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads with something to tell apart."""
        return tuple(head for head in HEADS if len(self.names(head)) > 1)


def facts(meta: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What a picture's json says, by head: a pair has two concepts, and a lone icon, never counted, has no count."""
    scene = "objects" in meta
    return {
        "concept": tuple(dict.fromkeys(meta["objects"])) if scene else (meta["concept"],),
        "style": (meta["style"],) if "style" in meta else (),
        "count": (str(meta["count"]),) if scene else (),
        "background": (meta.get("background", PLAIN_BACKGROUND),),
    }


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture: concepts and style, best first (at most five), number and background.

    A head that the judge does not have gives an empty tuple.
    """

    concept: tuple[str, ...]
    style: tuple[str, ...]
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

    Args:
        widths: channels of the levels; the first works at 1/4 of the picture, each further one at half the last.
        vocabulary: gives the heads.
    """

    def __init__(self, widths: Sequence[int], vocabulary: Vocabulary) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairs)))
        self.heads = nn.ModuleDict(
            {head: nn.Linear(widths[-1], len(vocabulary.names(head))) for head in vocabulary.heads}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: (B, 3, H, W) in [-1, 1] -> logits by head."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        pooled = x.mean((2, 3))
        return {head: layer(pooled) for head, layer in self.heads.items()}


class Judge:
    """A trained network with the names of its outputs.

    Args:
        network: moved to `device` and set to eval mode.
        vocabulary: that the network was built with.
        size: height and width in pixels at which pictures are looked at.
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

    @torch.no_grad()
    def classify(self, images: Tensor) -> list[Verdict]:
        """images: (B, 3, H, W) in [-1, 1] of any size -> one verdict each."""
        verdicts = []
        dtype = best_dtype(self.device)
        for part in images.split(_BATCH):
            small = resize(part.to(self.device), self.size).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                logits = {head: value.float().cpu() for head, value in self.network(small).items()}
            verdicts += [self._verdict(logits, i) for i in range(len(part))]
        return verdicts

    def _verdict(self, logits: dict[str, Tensor], i: int) -> Verdict:
        best: dict[str, tuple[str, ...]] = dict.fromkeys(HEADS, ())
        for head, values in logits.items():
            names = self.vocabulary.names(head)
            best[head] = tuple(names[j] for j in values[i].topk(min(5, len(names))).indices.tolist())
        return Verdict(**best)

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
        """The judge that `save` wrote, and its notes. Raises ModelFileError for missing or damaged files."""
        about = read_json(folder / f"{_STEM}.json")
        try:
            vocabulary = Vocabulary(**{head: tuple(about["vocabulary"][head]) for head in HEADS})
            network = JudgeNetwork(about["widths"], vocabulary)
            network.load_state_dict(read_weights(folder, _STEM))
            twins = {(concept, style): tuple(names) for concept, style, *names in about["twins"]}
            return cls(network, vocabulary, about["size"], about["widths"], twins), about["notes"]
        except (KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ModelFileError(f"{folder} does not hold a judge ({reason}); delete it to train one anew") from None


def resize(images: Tensor, size: int) -> Tensor:
    """images (B, 3, H, W) -> (B, 3, size, size) in fp32: averaged down by whole factors, else antialiased bicubic."""
    height, width = images.shape[-2:]
    if height == width == size:
        return images.float()
    if height == width and height % size == 0:
        return F.avg_pool2d(images.float(), height // size)
    return F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
