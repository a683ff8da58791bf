"""The settings of the training loop."""

from dataclasses import dataclass

from ldm.training.learning_rate import SHAPES

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class LoopConfig:
    """Everything about a training that does not depend on what is trained.

    Attributes:
        samples: how many samples to see in all; the clock of everything below.
        batch_size: samples per optimizer step, over all processes and accumulated micro-batches.
        micro_batch_size: samples per forward pass and process; 0 takes the whole share of a process at once.
        learning_rate: peak rate of the first player (the others scale with `player_lr`).
        player_lr: factor of the rate for further players (the discriminator).
        lr_shape: constant, cosine or cooldown.
        warmup: optimizer steps of linear warm-up.
        cooldown: last share of the training in which `lr_shape=cooldown` falls to zero.
        weight_decay, beta1, beta2: of AdamW; norms and biases are not decayed.
        clip_norm: largest gradient norm; 0 does not clip.
        ema_half_life: memory of the weight average in samples; 0 keeps the newest weights.
        precision: auto (bf16 where the machine is fast at it), fp32 or bf16 autocast.
        seed: of the order, the draws and the initial weights.
        workers: data-loading processes.
        log_every, preview_every, save_every: in samples; 0 does not.
        save_minutes: save also whenever so many minutes have passed since the last checkpoint; 0 does not.
        keep: newest checkpoints that stay on disk.
        previews: how many pictures a preview shows.
        tensorboard: write TensorBoard event files beside stats.jsonl.
    """

    samples: int = 100_000
    batch_size: int = 32
    micro_batch_size: int = 0
    learning_rate: float = 1e-4
    player_lr: float = 1.0
    lr_shape: str = "cooldown"
    warmup: int = 100
    cooldown: float = 0.2
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip_norm: float = 1.0
    ema_half_life: float = 20_000
    precision: str = "auto"
    seed: int = 0
    workers: int = 0
    log_every: int = 2_000
    preview_every: int = 20_000
    save_every: int = 0
    save_minutes: float = 10
    keep: int = 2
    previews: int = 16
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name}={getattr(self, name)} must be at least 1")
        for name, known in (("lr_shape", tuple(SHAPES)), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"loop.{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"loop.cooldown={self.cooldown} is a share of the training: use 0 to 1")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return -(-self.samples // self.batch_size)
