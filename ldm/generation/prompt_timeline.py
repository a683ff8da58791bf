"""Prompt timelines: which prompts hold for which step and which part of a picture."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import TokenReport
from conditioning.labels import Labels
from conditioning.prompt.composition import compose
from conditioning.prompt.regions import lay_out
from conditioning.prompt.schedule import prompt_schedule
from ldm.adapters.lora.tags import LoraTag, lora_tags
from ldm.generation.regional_prompt import Box, RegionalPrompt


class Reader(Protocol):
    """Turns texts into conditionings: `conditioning.prompt.encoder.PromptEncoder`, or `ClassReader`."""

    @property
    def mode(self) -> str:
        """The syntax of its texts: `a1111 | comfy | plain`."""

    def report(self, prompt: str) -> TokenReport:
        """Tokens of the text, and the chunks that it fills, at least 1."""

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Texts -> conditionings, padded to the same number of chunks.

        Args:
            prompts: B texts.
            chunks: to pad to; None is what the longest prompt fills.
            negative: they are negative prompts.
        """


class ClassReader:
    """Reads class numbers for a model without a text encoder; "" is no class. None means a model without classes."""

    mode = "plain"

    def __init__(self, num_classes: int | None) -> None:
        self._labels = None if num_classes is None else Labels(tuple(str(i) for i in range(num_classes - 1)))

    def report(self, prompt: str) -> TokenReport:
        """No tokens: a class has no length."""
        return TokenReport(prompt, 0, 0)

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Class numbers as texts -> `Conditioning(labels=(B,))`; without classes, an empty one.

        Raises:
            ValueError: a text that is no class number.
        """
        labels = self._labels
        if labels is None:
            return Conditioning()
        return Conditioning.cat([labels.encode([name]) if name else labels.null() for name in prompts])


@dataclass(frozen=True)
class Part:
    """One of several prompts of a picture: with a weight (`AND`), or with a box (`ADDROW`, `ADDCOL`)."""

    text: str
    weight: float = 1.0
    box: Box | None = None


@dataclass(frozen=True)
class Segment:
    """The texts of a picture up to and with step `last_step`, counted from 1; `parts` is empty for a plain prompt."""

    last_step: int
    whole: str
    parts: tuple[Part, ...]
    negative: str
    has_base: bool = False

    @property
    def form(self) -> Hashable:
        """All but the texts."""
        return self.last_step, self.has_base, tuple((part.weight, part.box) for part in self.parts)


@dataclass(frozen=True)
class PromptTimeline:
    """The texts of one picture from the first step to the last.

    Attributes:
        segments: in time.
        chunks: that all its texts are padded to.
        loras: tags of the prompt.
        longest: how many tokens the longest text of the prompt has, as it is read.
    """

    segments: tuple[Segment, ...]
    chunks: int
    loras: tuple[LoraTag, ...]
    longest: TokenReport

    @property
    def form(self) -> Hashable:
        """The key of batching: pictures of one batch have the same."""
        return self.chunks, self.loras, tuple(segment.form for segment in self.segments)


def parse_timeline(
    prompt: str, negative: str, steps: int, reader: Reader, regions: Sequence[RegionalPrompt] = ()
) -> PromptTimeline:
    """Split a prompt in time (`[a:b:0.4]`, `[a|b]`), by `AND` and into regions; only the mode `a1111` has these.

    Tags `<lora:name:0.8>` are taken out in every mode.

    Raises:
        ValueError: a tag that means nothing, or what `reader` says of texts that it cannot read.
    """
    prompt, tags = lora_tags(prompt)
    split = reader.mode == "a1111"
    over_time = [(steps, prompt, negative)]
    if split:
        over_time = _together(prompt_schedule(prompt, steps), prompt_schedule(negative, steps))
    segments = tuple(_segment(*entry, split=split) for entry in over_time)
    texts = dict.fromkeys(text for each in segments for text in (each.whole, *(part.text for part in each.parts)))
    others = {each.negative for each in segments} | {region.prompt for region in regions}
    reports = [reader.report(text) for text in texts]
    chunks = max(report.chunks for report in [*reports, *map(reader.report, others)])
    return PromptTimeline(segments, chunks, tuple(tags), max(reports, key=lambda report: report.total))


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
