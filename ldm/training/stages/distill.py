"""A stage after the last: a finished model learns to draw in few steps and without guidance."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from conditioning.clip.clip_text import ClipText
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Delta, LowRank
from ldm.adapters.lora.extract import whole_difference
from ldm.adapters.lora.layers import TEXT, TEXT_2, UNET
from ldm.adapters.lora.trainable import begin_with, changes_of, with_low_rank_changes
from ldm.engine.precision import DTYPES
from ldm.families.kinds import TEXT_TO_IMAGE
from ldm.families.parts import ModelParts
from ldm.io.disk.files import read_json
from ldm.io.folder.load import load_folder, load_text, save_folder
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.text_encoder import towers_by_folder
from ldm.io.folder.unet import unet_config
from ldm.io.locate import resolve_model
from ldm.io.lora.load import load_lora
from ldm.io.lora.write import save_lora
from ldm.io.single_file.checkpoint import read_checkpoint
from ldm.io.single_file.load import load_single_file
from ldm.networks.unet import UNet, UNetConfig
from ldm.progress import Progress, silent
from ldm.training.diffusion.distillation import METHODS
from ldm.training.objectives.distillation import DistillationConfig, DistillationObjective
from ldm.training.objectives.latent_batches import FrozenParts, LatentBatches, require_fit
from ldm.training.stages.base import NetworkEstimate, Stage
from ldm.training.stages.datasets import require_bucket_step
from ldm.training.stages.latents import LatentRun, denoising_pass

_log = logging.getLogger(__name__)

LORA_FILE = "lora.safetensors"
_CHANGED = ("down_blocks.", "mid_block.", "up_blocks.")  # what LCM-LoRA changes: every layer of the blocks


@dataclass(frozen=True)
class DistillRun(LatentRun):
    """A finished model learns to draw in few steps and without guidance.

    Attributes:
        teacher: the finished model: a shipped name, model folder, hub id or single file.
        text: a text tower of the teacher's shape that the student reads captions with, e.g. what `image_tokens` made of
            the teacher's; empty reads with the teacher's own. With `lora_rank` its whole change is part of the LoRA.
        lora_rank: of the low-rank changes that are trained and exported as a LoRA of the teacher; 0 trains all weights
            and exports a whole model.
        initial_lora: a LoRA of the teacher that the student begins with, of rank `lora_rank` or below; by default it
            begins as the teacher. What it changes besides the layers that are trained is left out, and a line says so.
    """

    task: str = "distill"
    teacher: str = ""
    text: str = ""
    lora_rank: int = 0
    initial_lora: str = ""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank={self.lora_rank} is negative; use 0 for none, or e.g. 64")
        if self.initial_lora and not self.lora_rank:
            raise ValueError(
                f"initial_lora={self.initial_lora} is for a LoRA that is trained; set lora_rank to its rank"
            )

    def build(self, device: torch.device, progress: Progress = silent) -> Stage:
        """See `StageConfig`. What cannot work is refused before anything is cached."""
        teacher = self._load()
        frozen = FrozenParts(
            teacher.autoencoder, teacher.latent_format, teacher.text, teacher.upscaler, words=teacher.words
        )
        theirs, tower = frozen, self._tower(teacher)
        if tower is not None:
            frozen = replace(frozen, text=tower)
        require_distillable(teacher, self.distillation)
        require_fit(teacher.unet.config, frozen)
        require_bucket_step(self.data, teacher.latent_format.factor)
        student = _student(teacher.unet, self.lora_rank)  # drawn before any data is looked at, which may draw too
        if self.initial_lora:
            begin_with(student, self._begun(teacher, student), UNET)
        frozen, train_set, previews = self.open_data(frozen, teacher.unet.config.num_classes, device, progress)
        objective = DistillationObjective(
            teacher.unet,
            student,
            LatentBatches(frozen, teacher.unet.config),
            teacher.process,
            teacher.prediction_type,
            self.distillation,
            None if tower is None else LatentBatches(theirs, teacher.unet.config),
            teacher.zeros_for_empty,
            self.loop.batch_size,
            self.loop.seed,
        )
        dtype = DTYPES[self.export_dtype]
        if self.lora_rank:
            reading: dict[str, Delta] = {}
            if tower is not None and isinstance(teacher.text, ClipText):
                reading = whole_difference(teacher.text.model, tower.model, TEXT)
            return Stage(objective, train_set, previews, partial(write_lora, dtype, reading))
        defaults = replace(teacher.defaults, width=self.data.size, height=self.data.size)
        others = replace(teacher, defaults=defaults, text=tower or teacher.text)
        export = partial(write_student, others, self.distillation.student_steps, dtype)
        return Stage(objective, train_set, previews, export)

    def networks(self, factor: int = 8) -> list[NetworkEstimate]:
        """See `StageConfig`."""
        config = self._unet_config()
        note = "the teacher and its passes come on top"

        def build() -> UNet:
            return _student(UNet(config), self.lora_rank)

        return [NetworkEstimate("unet", build, partial(denoising_pass, config, self.data.size // factor), note)]

    def _begun(self, teacher: ModelParts, student: UNet) -> dict[str, LowRank]:
        """What `initial_lora` changes of the layers that are trained, by address."""
        text = {} if teacher.text is None else towers_by_folder(teacher.text)
        towers = {place: tower.model for place, tower in text.items()}
        adapters = LoraSet(teacher.unet, towers.get(TEXT), towers.get(TEXT_2))
        widths = [tower.width for tower in text.values()]
        load_lora(adapters, self.initial_lora, weight=0.0, name="initial", widths=widths)
        deltas, trained = adapters.deltas("initial"), changes_of(student, UNET)
        usable = {
            layer: delta
            for layer, delta in deltas.items()
            if layer in trained and isinstance(delta, LowRank) and delta.mid is None
        }
        if not usable:
            raise ValueError(f"initial_lora={self.initial_lora} changes no layer that is trained here; leave it out")
        if left := len(deltas) - len(usable):
            _log.warning("%s: %d of its %d changes are not trained on here", self.initial_lora, left, len(deltas))
        return usable

    def _tower(self, teacher: ModelParts) -> ClipText | None:
        """The student's own text tower, if it has one."""
        if not self.text:
            return None
        tower, theirs = load_text(resolve_model("text", self.text)), teacher.text
        if not (isinstance(tower, ClipText) and isinstance(theirs, ClipText)):
            raise ValueError(f"text={self.text} is for a teacher with one text tower; leave it out")
        if tower.model.config != theirs.model.config or tower.max_tokens != theirs.max_tokens:
            raise ValueError(f"text={self.text} is of another shape than the teacher's text tower; use one made of it")
        return tower

    def _load(self) -> ModelParts:
        path = Path(self.teacher)
        return load_single_file(path) if path.is_file() else load_folder(resolve_model("teacher", self.teacher))

    def _unet_config(self) -> UNetConfig:
        """The shape of the teacher, without its weights."""
        path = Path(self.teacher)
        if path.is_file():
            return read_checkpoint(path).unet_config
        file = resolve_model("teacher", self.teacher) / "unet" / "config.json"
        return unet_config(read_json(file), str(file))[0]


def _student(teacher: UNet, lora_rank: int) -> UNet:
    """What is trained, which answers as the teacher does at first: low-rank changes of it, or a copy of all weights."""
    if lora_rank:
        return with_low_rank_changes(teacher, lora_rank, _CHANGED)
    return copy.deepcopy(teacher).requires_grad_(True)


def require_distillable(teacher: ModelParts, config: DistillationConfig) -> None:
    """Refuse a teacher whose student could not be trained or exported here.

    Raises:
        ValueError: it is no text-to-image model, is not variance-preserving, has nothing to guide, or the steps do not
            fit each other; names the field.
    """
    METHODS[config.method](teacher.process, config.teacher_steps, config.student_steps)
    if teacher.kind != TEXT_TO_IMAGE:
        raise ValueError(f"teacher is a model for {teacher.kind}, which cannot be distilled; use a text-to-image model")
    if config.guidance_scale != 1 and teacher.text is None and teacher.unet.config.num_classes is None:
        raise ValueError(
            f"distillation.guidance_scale={config.guidance_scale:g} needs a teacher of words or labels; use 1"
        )
    try:
        scheduler_fields(teacher.process, teacher.prediction_type, "ddim", "trailing")
    except ValueError as error:
        raise ValueError(f"teacher cannot be distilled, for its student could not be exported: {error}") from None


def write_student(
    teacher: ModelParts, steps: int, dtype: torch.dtype, folder: Path, modules: Mapping[str, nn.Module]
) -> None:
    """Write the teacher's model folder with the student's weights, and with its steps and no guidance as defaults.

    Args:
        teacher: all other parts.
        steps: of the student.
        dtype: of the weights in the files.
        folder: exists.
        modules: the trained `unet`.
    """
    unet = modules["unet"]
    assert isinstance(unet, UNet)
    defaults = replace(
        teacher.defaults,
        num_inference_steps=steps,
        guidance_scale=1.0,
        guidance_rescale=0.0,
        sampler="ddim",
        schedule="trailing",
        sampler_options={},
        schedule_options={},
    )
    save_folder(replace(teacher, unet=unet, defaults=defaults), folder, dtype)


def write_lora(
    dtype: torch.dtype, reading: Mapping[str, Delta], folder: Path, modules: Mapping[str, nn.Module]
) -> None:
    """Write the student's changes of the teacher as `folder/lora.safetensors`, under kohya's names.

    Args:
        dtype: of the factors in the file.
        reading: changes of the text tower, by address.
        folder: exists.
        modules: the trained `unet`.
    """
    save_lora(folder / LORA_FILE, {**changes_of(modules["unet"], UNET), **reading}, "kohya", dtype)
