"""The denoiser of a batch: for each segment of its prompt timelines, conditioning and guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Denoiser
from ldm.generation.prompt_timeline import PromptTimeline, Segment
from ldm.generation.regional_prompt import RegionalPrompt, box_mask
from ldm.guidance import Composition, GuidanceSettings, Region, Regions, Timeline, guide

BASE_SHARE = 0.2
"""The share of every region that a base prompt (`ADDBASE`) keeps, Regional Prompter's default ratio."""


class BatchModel(Protocol):
    """The denoiser of a batch of pictures, with its guidance."""

    def condition(self, texts: Sequence[str], negative: bool = False) -> Conditioning:
        """One text per picture -> everything that the network is conditioned on, batch B."""

    def denoiser(self, conditioning: Conditioning) -> ConditionalDenoiser:
        """The network under a conditioning, batch B."""


@dataclass(frozen=True, eq=False)
class SegmentConditioning:
    """The conditioning of a batch of pictures in one segment.

    Attributes:
        whole: prompts of the whole pictures, batch B.
        parts: one per part of the prompts, batch B each.
        negative, empty: of the negative and the empty prompts, where guidance looks at them.
        regions: by mask.
    """

    whole: Conditioning
    parts: list[Conditioning]
    negative: Conditioning | None = None
    empty: Conditioning | None = None
    regions: list[Region] = field(default_factory=list)


def timeline_denoiser(
    timelines: Sequence[PromptTimeline],
    model: BatchModel,
    settings: GuidanceSettings,
    grid: Tensor,
    regions: Sequence[RegionalPrompt] = (),
    weak: Callable[[Sequence[str]], ConditionalDenoiser] | None = None,
) -> Denoiser:
    """The denoiser of a batch that follows, at each time of the grid, what its timelines say.

    Args:
        timelines: one per picture, all of the same form.
        model: encodes texts and runs the network.
        settings: of guidance, which is built anew for each segment with other texts.
        grid: the times `(n + 1,)`; step i begins at grid[i - 1].
        regions: hold all the way, for every picture.
        weak: makes the second model's denoiser from the pictures' prompts, for autoguidance.
    """
    built: dict[tuple[Segment, ...], Denoiser] = {}
    segments = []
    for column in zip(*(timeline.segments for timeline in timelines), strict=True):
        texts = tuple(replace(segment, last_step=0) for segment in column)
        if texts not in built:  # an alternation comes back to the same texts
            conditioning = condition_segment(column, model, settings, regions)
            second = weak([segment.whole for segment in column]) if weak else None
            built[texts] = denoise_segment(column, conditioning, model, settings, second)
        segments.append((grid[column[0].last_step - 1].item(), built[texts]))
    return segments[0][1] if len(segments) == 1 else Timeline(segments)


def condition_segment(
    segments: Sequence[Segment], model: BatchModel, settings: GuidanceSettings, regions: Sequence[RegionalPrompt]
) -> SegmentConditioning:
    """Encode the texts of one segment.

    Args:
        segments: one per picture, of the same form.
        model: which encodes them.
        settings: of guidance, which decide whether negative prompts are needed.
        regions: of all pictures.
    """
    columns = list(zip(*(segment.parts for segment in segments), strict=True))  # one per part, an entry per picture
    negative = settings.needs_negative or bool(columns)
    return SegmentConditioning(
        whole=model.condition([segment.whole for segment in segments]),
        parts=[model.condition([part.text for part in column]) for column in columns],
        negative=model.condition([segment.negative for segment in segments], True) if negative else None,
        empty=model.condition([""] * len(segments), True) if settings.needs_empty else None,
        regions=[Region(model.condition([each.prompt] * len(segments)), each.mask) for each in regions],
    )


def denoise_segment(
    segments: Sequence[Segment],
    conditioning: SegmentConditioning,
    model: BatchModel,
    settings: GuidanceSettings,
    weak: ConditionalDenoiser | None = None,
) -> Denoiser:
    """The guided denoiser of one segment: whole prompts, `AND`, regions, and guidance around them."""
    source: ConditionalDenoiser = model.denoiser(conditioning.whole)
    places, parts = list(conditioning.regions), segments[0].parts
    if parts and parts[0].box is not None:
        share = 1 - BASE_SHARE if segments[0].has_base else 1.0
        boxes = [box_mask(part.box) for part in parts if part.box is not None]
        places += [Region(c, share * mask) for c, mask in zip(conditioning.parts, boxes, strict=True)]
    elif parts and conditioning.negative is not None:
        weights = [part.weight for part in parts]
        source = Composition(source, conditioning.negative, list(zip(conditioning.parts, weights, strict=True)))
    if places:
        source = Regions(source, places)
    return guide(source, conditioning.negative, settings, empty=conditioning.empty, weak=weak)
