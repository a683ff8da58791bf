"""What pictures are told, step by step and part by part: prompts in, one denoiser for the whole way out."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from conditioning.labels import Labels
from conditioning.prompt.composition import compose
from conditioning.prompt.regions import lay_out
from conditioning.prompt.schedule import prompt_schedule
from ldm.denoiser import ConditionalDenoiser, Denoiser
from ldm.guidance import Composition, GuidanceSettings, Region, Regions, Timeline, guide

BASE_SHARE = 0.2
"""What a base prompt (`ADDBASE`) keeps of every region, Regional Prompter's default ratio."""

Join = Callable[[Conditioning, bool], Conditioning]
"""(what the texts of a batch say, whether they are negative) -> all that the network is told."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom as fractions of the picture."""


class Reader(Protocol):
    """Turns texts into conditionings: `conditioning.prompt.encoder.PromptEncoder`, or `ClassReader`."""

    @property
    def mode(self) -> str:
        """The syntax of its texts: `a1111 | comfy | plain`."""

    def chunks_of(self, prompt: str) -> int:
        """Chunks that the text fills, at least 1."""

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Texts -> conditionings, padded to the same number of chunks. negative: they say what to stay away from."""


class ClassReader:
    """Reads class numbers for a model without a text encoder; "" is no class. None means a model without classes."""

    mode = "plain"

    def __init__(self, num_classes: int | None) -> None:
        self._labels = None if num_classes is None else Labels(tuple(str(i) for i in range(num_classes - 1)))

    def chunks_of(self, prompt: str) -> int:
        """1: a class has no length."""
        return 1

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Raises ValueError for what is no class number."""
        labels = self._labels
        if labels is None:
            return Conditioning()
        return Conditioning.cat([labels.encode([name]) if name else labels.null() for name in prompts])


@dataclass(frozen=True, eq=False)
class RegionalPrompt:
    """A prompt that holds where its mask is white.

    mask: (H, W) in [0, 1], of any size; it is averaged down to the latent's. Soft edges blend.
    file: where the mask comes from; recipes of pictures name it.
    """

    prompt: str
    mask: Tensor
    file: str = ""

    @classmethod
    def from_file(cls, path: str | Path, prompt: str) -> "RegionalPrompt":
        """The mask is a picture: white counts, black does not. Raises OSError for a file that is none."""
        from PIL import Image

        with Image.open(path) as image:
            grey = torch.tensor(list(image.convert("L").tobytes()), dtype=torch.float32)
            return cls(prompt, grey.reshape(image.height, image.width) / 255, str(path))


@dataclass(frozen=True)
class Part:
    """One of several prompts of a picture: with a weight (`AND`), or with a box (`ADDROW`, `ADDCOL`)."""

    text: str
    weight: float = 1.0
    box: Box | None = None


@dataclass(frozen=True)
class Segment:
    """What a picture is told up to and with step `last_step`, counted from 1; `parts` is empty for a plain prompt."""

    last_step: int
    whole: str
    parts: tuple[Part, ...]
    negative: str
    has_base: bool = False

    @property
    def texts(self) -> list[str]:
        """Everything that is read in this stretch."""
        return [self.whole, self.negative, *(part.text for part in self.parts)]


@dataclass(frozen=True)
class PromptTimeline:
    """What one picture is told all the way. chunks: that all its texts are padded to."""

    segments: tuple[Segment, ...]
    chunks: int

    @property
    def form(self) -> Hashable:
        """What the scripts of pictures that are drawn in one batch must have in common."""
        return self.chunks, tuple(
            (segment.last_step, segment.has_base, tuple((part.weight, part.box) for part in segment.parts))
            for segment in self.segments
        )


def parse_timeline(
    prompt: str, negative: str, steps: int, reader: Reader, regions: Sequence[RegionalPrompt] = ()
) -> PromptTimeline:
    """Split a prompt in time (`[a:b:0.4]`, `[a|b]`), by `AND` and into regions; only the mode `a1111` has these.

    Raises what `reader` does for texts that it cannot read.
    """
    if reader.mode == "a1111":
        over_time = _together(prompt_schedule(prompt, steps), prompt_schedule(negative, steps))
    else:
        over_time = [(steps, prompt, negative)]
    segments = tuple(_segment(*entry, split=reader.mode == "a1111") for entry in over_time)
    texts = {text for segment in segments for text in segment.texts} | {region.prompt for region in regions}
    return PromptTimeline(segments, max(map(reader.chunks_of, texts)))


def _together(first: list[tuple[int, str]], second: list[tuple[int, str]]) -> list[tuple[int, str, str]]:
    """(last step, prompt, negative) for every stretch in which neither changes."""

    def at(schedule: list[tuple[int, str]], step: int) -> str:
        return next(text for last, text in schedule if step <= last)

    ends = sorted({last for last, _ in (*first, *second)})
    conditioning = [(end, at(first, end), at(second, end)) for end in ends]
    return [list(same)[-1] for _, same in groupby(conditioning, key=lambda entry: entry[1:])]


def _segment(last_step: int, prompt: str, negative: str, split: bool) -> Segment:
    if not split:
        return Segment(last_step, prompt, (), negative)
    composed = compose(prompt)
    if len(composed) > 1:
        return Segment(last_step, composed[0].text, tuple(Part(each.text, each.weight) for each in composed), negative)
    layout = lay_out(composed[0].text)
    if len(layout.regions) == 1 and layout.base is None:
        return Segment(last_step, layout.regions[0].text, (), negative)
    whole = layout.regions[0].text if layout.base is None else layout.base
    parts = tuple(Part(region.text, box=region.box) for region in layout.regions)
    return Segment(last_step, whole, parts, negative, has_base=layout.base is not None)


def timeline_denoiser(
    timelines: Sequence[PromptTimeline],
    reader: Reader,
    join: Join,
    denoiser: Callable[[Conditioning], ConditionalDenoiser],
    settings: GuidanceSettings,
    grid: Tensor,
    regions: Sequence[RegionalPrompt] = (),
    weak: Callable[[Sequence[str]], ConditionalDenoiser] | None = None,
) -> Denoiser:
    """The denoiser of a batch that is told, at each time of the grid, what the scripts say.

    Each text is read alone and once: what a picture is told depends on no other picture of the batch.

    Args:
        scripts: one per picture, all of the same form.
        reader: of their texts.
        join: adds to each conditioning what the network is told besides texts.
        denoiser: makes one that is told a conditioning, batch B.
        settings: of guidance, which is built anew for each stretch.
        grid: the times `(n + 1,)`; step i begins at grid[i - 1].
        regions: hold all the way, for every picture.
        weak: makes the second model's denoiser from the pictures' prompts, for autoguidance.
    """
    chunks = timelines[0].chunks
    read = cache(lambda text, negative: reader.encode([text], chunks, negative))

    def tell(texts: Sequence[str], negative: bool = False) -> Conditioning:
        return join(Conditioning.cat([read(text, negative) for text in texts]), negative)

    @cache
    def guided(segments: tuple[tuple, ...]) -> Denoiser:
        wholes, parts, negatives, has_base = zip(*segments, strict=True)
        source = denoiser(tell(wholes))
        columns = list(zip(*parts, strict=True))  # one per part, with an entry for each picture
        negative = tell(negatives, True) if settings.needs_negative or columns else None
        conditioning = [tell([part.text for part in column]) for column in columns]
        places = [Region(tell([each.prompt] * len(timelines)), each.mask) for each in regions]
        if columns and columns[0][0].box is not None:
            share = 1 - BASE_SHARE if has_base[0] else 1.0
            places += [
                Region(c, share * box_mask(column[0].box)) for c, column in zip(conditioning, columns, strict=True)
            ]
        elif columns and negative is not None:
            weights = [column[0].weight for column in columns]
            source = Composition(source, negative, list(zip(conditioning, weights, strict=True)))
        if places:
            source = Regions(source, places)
        empty = tell([""] * len(timelines), True) if settings.needs_empty else None
        return guide(source, negative, settings, empty=empty, weak=weak(wholes) if weak else None)

    segments = []
    for column in zip(*(timeline.segments for timeline in timelines), strict=True):
        content = tuple((each.whole, each.parts, each.negative, each.has_base) for each in column)
        segments.append((grid[column[0].last_step - 1].item(), guided(content)))
    return segments[0][1] if len(segments) == 1 else Timeline(segments)


def box_mask(box: Box, cells: int = 512) -> Tensor:
    """A mask (cells, cells) that is 1 inside the box."""
    left, top, right, bottom = (round(edge * cells) for edge in box)
    mask = torch.zeros(cells, cells)
    mask[top:bottom, left:right] = 1
    return mask
