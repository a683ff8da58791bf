"""The settings of the training loop."""

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from ldm.naming import look_up
from ldm.networks.backends import BACKENDS, DEFAULT
from ldm.training.optimization.learning_rate import SHAPES, learning_rate

TRACKERS = {"tensorboard": "data", "wandb": "wandb"}
"""The trackers by name, each with the extra that brings its package."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "muon")


@dataclass(frozen=True)
class LoopConfig:
    """Everything about a training that does not depend on what is trained.

    Attributes:
        samples: how many samples to see in all; the clock of everything below.
        batch_size: samples per optimizer step, over all processes and accumulated micro-batches.
        micro_batch_size: samples per forward pass and process; 0 takes the whole share of a process at once.
        minutes: end each start of the training after so long, with a checkpoint and an export; the same command goes
            on. 0 has no such budget. The learning rate follows `samples` alone.
        optimizer: adamw, adamw8bit (needs bitsandbytes), adafactor, or muon (matrices; AdamW for the rest).
        learning_rate: peak rate of the first trained module (the others scale with `lr_multiplier`).
        lr_multiplier: factor of the rate for further trained modules (the discriminator).
        lr_shape: constant, cosine, linear, or cooldown (also called wsd).
        warmup: optimizer steps of linear warm-up.
        cooldown: last share of the training in which `lr_shape=cooldown` falls to zero.
        weight_decay, beta1, beta2: of AdamW, where the other optimizers have them; norms and biases are not decayed.
        clip_norm: largest gradient norm; 0 does not clip.
        max_skipped: stop after so many steps in a row whose loss or gradient was not finite; each is skipped.
        ema_half_life: memory of the weight average in samples; 0 keeps the newest weights.
        ema_more: half-lives of further averages that are kept at the same time.
        export_half_life: which average is exported and previewed; null takes `ema_half_life`, 0 the newest weights.
        export_raw: write the newest weights beside the export too, in `export_raw/`.
        precision: auto (what accelerate was launched with, else bf16 where the machine is fast at it), fp32, or
            autocast to bf16 or fp16 (a GPU's, with gradient scaling).
        gradient_checkpointing: keep only the inputs of each block for the backward pass and compute the rest again:
            less memory for about a third more arithmetic.
        attention: backend of the attention of what is trained, see `ldm.networks.attention.set_attention`.
        compile: translate each block with torch.compile, which needs a C++ compiler and minutes at the start.
        seed: of the order, the draws and the initial weights.
        workers: data-loading processes; 0 loads in a thread of the training itself.
        prefetch: batches that lie ready, for the training and again for each worker; 0 with `workers=0` loads each one
            when it is needed.
        load_timeout: seconds after which a batch that does not come ends the training; 0 waits for ever.
        log_every, preview_every, save_every: in samples; 0 does not.
        save_minutes: save also whenever so many minutes have passed since the last checkpoint; 0 does not.
        keep: newest checkpoints that stay on disk.
        keep_every: make a checkpoint every so many samples that stays for good; 0 does not.
        previews: how many pictures a preview shows.
        preview_prompts: take the place of the first captions of a preview, for stages that draw from captions; there is
            no real picture beside them.
        trackers: which services receive the numbers and previews, too: tensorboard, wandb (Weights & Biases), or none.
        project, run_name: what trackers call the training; an empty run name is that of the output folder.
        validate_every: in samples, how often the loss of held-out samples at fixed times and noise is taken; 0 never.
        validation_samples: how many.
    """

    samples: int = 100_000
    minutes: float = 0
    batch_size: int = 32
    micro_batch_size: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    lr_multiplier: float = 1.0
    lr_shape: str = "cooldown"
    warmup: int = 100
    cooldown: float = 0.2
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip_norm: float = 1.0
    max_skipped: int = 20
    ema_half_life: float = 20_000
    ema_more: tuple[float, ...] = ()
    export_half_life: float | None = None
    export_raw: bool = False
    precision: str = "auto"
    gradient_checkpointing: bool = False
    attention: str = DEFAULT
    compile: bool = False
    seed: int = 0
    workers: int = 0
    prefetch: int = 2
    load_timeout: float = 600
    log_every: int = 2_000
    preview_every: int = 20_000
    save_every: int = 0
    save_minutes: float = 10
    keep: int = 2
    keep_every: int = 0
    previews: int = 16
    preview_prompts: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ("tensorboard",)
    project: str = "ldm"
    run_name: str = ""
    validate_every: int = 0
    validation_samples: int = 256

    def __post_init__(self) -> None:
        for name, least in (
            ("samples", 1),
            ("batch_size", 1),
            ("keep", 1),
            ("max_skipped", 1),
            ("validation_samples", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"loop.{name}={getattr(self, name)} must be at least {least}")
        for name in (
            "micro_batch_size",
            "warmup",
            "clip_norm",
            "ema_half_life",
            "workers",
            "prefetch",
            "load_timeout",
            "keep_every",
            "validate_every",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"loop.{name}={getattr(self, name)} is negative; use 0 or more")
        look_up("loop.attention", self.attention, dict.fromkeys(BACKENDS))
        look_up("loop.lr_shape", self.lr_shape, SHAPES)
        look_up("loop.optimizer", self.optimizer, dict.fromkeys(OPTIMIZERS))
        for tracker in self.trackers:
            look_up("loop.trackers", tracker, TRACKERS)
        look_up("loop.precision", self.precision, dict.fromkeys(PRECISIONS))
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"loop.cooldown={self.cooldown} is a share of the training: use 0 to 1")
        if len(set(self.half_lives)) < len(self.half_lives) or min(self.half_lives) < 0:
            raise ValueError(f"loop.ema_more={list(self.ema_more)} must be other numbers >= 0 than loop.ema_half_life")
        if self.export_half_life not in (None, 0, *self.half_lives):
            known = ", ".join(f"{half_life:g}" for half_life in self.half_lives)
            raise ValueError(f"loop.export_half_life={self.export_half_life:g} is not kept; use {known} or 0")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return -(-self.samples // self.batch_size)

    def rate_at(self, step: int) -> float:
        """The learning rate of an optimizer step, counted from 0."""
        return learning_rate(
            step,
            self.steps,
            peak=self.learning_rate,
            warmup=self.warmup,
            shape=self.lr_shape,
            cooldown=self.cooldown,
        )

    @property
    def half_lives(self) -> tuple[float, ...]:
        """Of all weight averages, the main one first."""
        return (self.ema_half_life, *self.ema_more)


def to_yaml(run: Any) -> str:
    """The settings of a training, a dataclass, as YAML with every default written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))
