"""Prompt timelines: which prompts hold for which step and which part of a picture."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from conditioning.clip.clip_text import TokenReport
from conditioning.prompt.composition import compose
from conditioning.prompt.regions import lay_out
from conditioning.prompt.schedule import prompt_schedule
from conditioning.prompt.two_texts import two_texts
from ldm.adapters.lora.tags import LoraTag, lora_tags
from ldm.generation.reader import Reader
from ldm.generation.regional_prompt import Box, RegionalPrompt


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
    prompt: str,
    negative: str,
    steps: int,
    reader: Reader,
    regions: Sequence[RegionalPrompt] = (),
    prompt_2: str | None = None,
    negative_2: str | None = None,
) -> PromptTimeline:
    """Split a prompt in time (`[a:b:0.4]`, `[a|b]`), by `AND` and into regions; only the mode `a1111` has these.

    Tags `<lora:name:0.8>` are taken out in every mode.

    Args:
        prompt: of the picture.
        negative: likewise.
        steps: of the sampler.
        reader: of the texts.
        regions: by mask, which all pictures have.
        prompt_2: what the second tower of a pair reads, beside each part that `AND` or regions make of `prompt`; it
            may change in time.
        negative_2: likewise, beside `negative`.

    Raises:
        ValueError: a tag that means nothing, or what `reader` says of texts that it cannot read.
    """
    prompt, tags = lora_tags(prompt)
    if prompt_2 is not None:
        prompt_2, more = lora_tags(prompt_2)
        tags = [*tags, *(tag for tag in more if tag not in tags)]
    split = reader.mode == "a1111"
    texts_over_time = [
        [(steps, text)] if text is None or not split else prompt_schedule(text, steps)
        for text in (prompt, negative, prompt_2, negative_2)
    ]
    segments = tuple(_segment(*entry, split=split) for entry in _together(texts_over_time))
    texts = dict.fromkeys(text for each in segments for text in (each.whole, *(part.text for part in each.parts)))
    others = {each.negative for each in segments} | {region.prompt for region in regions}
    reports = [reader.report(text) for text in texts]
    chunks = max(report.chunks for report in [*reports, *map(reader.report, others)])
    return PromptTimeline(segments, chunks, tuple(tags), max(reports, key=lambda report: report.total))


def _together(schedules: Sequence[Sequence[tuple[int, Any]]]) -> list[tuple[int, Any, Any, Any, Any]]:
    """(last step, prompt, negative, and the second ones) for every stretch in which none changes."""

    def at(schedule: Sequence[tuple[int, Any]], step: int) -> Any:
        return next(text for last, text in schedule if step <= last)

    ends = sorted({last for schedule in schedules for last, _ in schedule})
    conditioning = [(end, *(at(schedule, end) for schedule in schedules)) for end in ends]
    return [list(same)[-1] for _, same in groupby(conditioning, key=lambda entry: entry[1:])]


def _segment(
    last_step: int, prompt: str, negative: str, prompt_2: str | None, negative_2: str | None, split: bool
) -> Segment:
    """The texts of a stretch, each for both towers."""
    segment = _split_segment(last_step, prompt, negative, split)
    parts = tuple(replace(part, text=two_texts(part.text, prompt_2)) for part in segment.parts)
    whole, away = two_texts(segment.whole, prompt_2), two_texts(segment.negative, negative_2)
    return replace(segment, whole=whole, parts=parts, negative=away)


def _split_segment(last_step: int, prompt: str, negative: str, split: bool) -> Segment:
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
