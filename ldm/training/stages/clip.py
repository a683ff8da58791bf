"""Stage 2: CLIP, whose text tower learns words that lie near their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from conditioning.clip.clip_text import ClipText
from conditioning.training.contrastive import ClipConfig, ClipObjective, build_towers
from conditioning.training.infonce import info_nce, teacher_distance, word_loss
from conditioning.training.teacher import PACKAGE_WIDTH, SentenceTeacher
from conditioning.training.towers import ClipTowers, text_encoder_of
from ldm.io.folder.text_encoder import save_text_encoder
from ldm.progress import Progress, silent
from ldm.training.config import LoopConfig
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import DataConfig, open_pictures, require_squares, sentences_beside

_NOTE = (
    "how long texts are, and how many tokens the vocabulary gets, is known when the data are read; counted are the"
    " most, clip.context_length and clip.vocab_size"
)


@dataclass(frozen=True)
class ClipRun:
    """Stage 2: words that lie near their pictures.

    Attributes:
        styles: phrases that also follow the words of the data set's `words.txt`, which the text teacher explains.
    """

    task: str = "clip"
    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    styles: tuple[str, ...] = ()
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require_squares(self.data, "CLIP's picture tower reads squares")

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`."""
        train_set, previews = open_pictures(self.data, self.output, captioned=True, progress=progress)
        sentences = sentences_beside(self.data, self.styles)
        teacher = SentenceTeacher.from_package() if self.clip.teacher_weight > 0 else None
        captions = train_set.all_captions()
        objective = ClipObjective.build(self.clip, captions, self.output, sentences, teacher, progress)
        return Stage(objective, train_set, previews, partial(write_clip, objective))

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        return [NetworkEstimate("clip", partial(_towers, self.clip), partial(_compare, self.clip), _NOTE)]


def write_clip(objective: ClipObjective, folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Write `tokenizer/` and `text_encoder/` as Stable Diffusion folders have them, `clip/` with `save_vision`."""
    towers = modules["clip"]
    assert isinstance(towers, ClipTowers)
    save_text_encoder(ClipText(objective.tokenizer, text_encoder_of(towers.clip)), folder, None)
    if objective.config.save_vision:
        towers.clip.save_pretrained(folder / "clip")


def _towers(config: ClipConfig) -> ClipTowers:
    end = config.vocab_size - 1
    teacher_width = PACKAGE_WIDTH if config.teacher_weight > 0 else None
    return build_towers(config, config.vocab_size, {"bos": end - 1, "eos": end, "pad": end}, teacher_width)


def _compare(config: ClipConfig, towers: nn.Module, samples: int, device: torch.device) -> Tensor:
    """The loss of CLIP's towers on as many texts as they may get, each at its full length."""
    assert isinstance(towers, ClipTowers)
    compared = samples + round(samples * config.hard_negatives)
    texts = compared + round(samples * config.sentences)
    ids = torch.zeros(texts, config.context_length, dtype=torch.long, device=device)
    states = towers.clip.text_model(input_ids=ids).last_hidden_state[:, :3]
    patches = (config.image_size // config.patch_size) ** 2
    seen = max(1, round(config.patch_keep * patches))
    keep = torch.zeros(samples, seen, dtype=torch.long, device=device) if seen < patches else None
    pixels = torch.zeros(samples, 3, config.image_size, config.image_size, device=device)
    output = towers.heads(states, pixels, keep)
    with torch.autocast("cpu", enabled=False):  # of which traces are
        loss, _ = info_nce(output.image, output.text[:compared], output.log_scale.float().exp())
        bags = torch.zeros(texts, config.vocab_size, device=device)
        loss = loss + word_loss(output.words, bags, torch.zeros_like(ids[:, 0]))
        if output.sentence is not None:
            teacher = torch.zeros(texts, PACKAGE_WIDTH, device=device)
            loss = loss + teacher_distance(output.sentence, teacher, torch.zeros_like(teacher[:, 0]).bool())
    return loss
