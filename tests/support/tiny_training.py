"""Trains a tiny latent diffusion model and writes down every sample, learning rate and loss; can kill itself anywhere.

`python tests/support/tiny_training.py` reads JSON objects from stdin, one a line, each a set of `Settings`; every line
is a training of its own in forked processes, so that the imports are paid once. It prints their exit codes.
`torchrun --nproc_per_node 2 tests/support/tiny_training.py '{...}'` is one training in the processes that the launcher
started.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from regression import trainer_of
from tiny_networks import tiny_autoencoder, tiny_unet
from torch import Tensor, nn

from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip.bpe import train_bpe
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.training.contrastive import ClipConfig, ClipObjective
from ldm.data.cache.latents import LatentDataset
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.buckets import BucketConfig
from ldm.data.pictures.dataset import PictureDataset
from ldm.training.config import LoopConfig
from ldm.training.objectives.latent_diffusion import DiffusionConfig, FrozenParts, LatentDiffusionObjective
from ldm.training.stages.clip import write_clip
from ldm.training.stages.latent_diffusion import write_model

LOST_PEER = 4
"""Exit code of a process whose connection to another one broke."""

BATCH, SAMPLES = 8, 48


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        output, data: folders; `data` is a digits data set at 16 px, or other pictures of ten classes.
        task: "ldm" or "clip". CLIP compares the pictures of a micro-batch, so only equal ones give equal losses.
        processes: how many work together.
        accumulation: micro-batches a step and process.
        sharded: with FSDP, as accelerate's `fsdp_version: 2` asks for it.
        reshard: of FSDP, give weights back after the forward pass.
        frozen: train the upper half of the U-Net alone.
        live: encode the pictures in every step instead of taking their latents from a cache.
        decode: the pictures whenever they are needed instead of once.
        step: of the edges of buckets; 0 for squares.
        kill: samples seen at which the last process kills itself with SIGKILL, in the midst of a step; -1 does not.
        validate_every: samples between validations.
        pause: seconds that every pass waits, so that a signal finds it at work.
        preview_every: samples between previews.
        interrupt: samples seen at which the last process alone hears SIGTERM; -1 never.
        diverge: samples seen from which on the loss of the last process is not a number; -1 never.
        stumble: samples seen at which, this once, the loss of the last process is not a number; -1 never.
        seconds: after which a process that still runs is stopped by SIGALRM.
    """

    output: str
    data: str
    task: str = "ldm"
    processes: int = 1
    accumulation: int = 1
    sharded: bool = False
    reshard: bool = True
    frozen: bool = False
    live: bool = False
    decode: bool = False
    step: int = 0
    kill: int = -1
    validate_every: int = 0
    pause: float = 0.0
    preview_every: int = 0
    interrupt: int = -1
    diverge: int = -1
    stumble: int = -1
    seconds: int = 400


class _Named:
    """A dataset that tells the id of each sample."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.weights, self.groups = dataset, dataset.weights, dataset.groups

    def __len__(self) -> int:
        return len(self._dataset)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {**self._dataset.item(index, generator), "id": index}


def happen(settings: Settings, last: bool, samples_seen: int, found: dict[str, Tensor]) -> None:
    """Let happen in a pass what the settings name, most of it to the `last` process alone."""
    time.sleep(settings.pause)
    if last and 0 <= settings.kill <= samples_seen:
        os.kill(os.getpid(), signal.SIGKILL)
    if last and 0 <= settings.interrupt == samples_seen:
        os.kill(os.getpid(), signal.SIGTERM)
    if last and (0 <= settings.diverge <= samples_seen or settings.stumble == samples_seen):
        found["loss"] = found["loss"] * float("nan")


class _Clip(ClipObjective):
    """The real objective of tiny towers, to which something may happen."""

    def __init__(self, settings: Settings, captions: list[str], rank: int) -> None:
        config = ClipConfig(600, 16, 16, 2, 2, 16, 4, 16, 2, 2, 8, hard_negatives=0.5)
        folder = Path(settings.output) / f"tokenizer-{rank}"
        train_bpe(captions, config.vocab_size, folder, config.context_length - 2)
        torch.manual_seed(0)
        super().__init__(config, ClipTokenizer.from_folder(folder))
        self._settings, self._last = settings, rank == settings.processes - 1

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        found = super().loss(module_name, batch, generators, samples_seen)
        happen(self._settings, self._last, samples_seen, found)
        return found


class _Recorded(LatentDiffusionObjective):
    """The real objective, with a line for every call of its loss."""

    def __init__(self, settings: Settings, autoencoder: KLAutoencoder, rank: int) -> None:
        torch.manual_seed(0)
        unet = tiny_unet(num_classes=11)
        super().__init__(unet, FrozenParts(autoencoder, LatentFormat()), DiffusionConfig())
        if settings.frozen:
            unet.down_blocks.requires_grad_(False)
        self._autoencoder, self._settings, self._calls = autoencoder, settings, 0
        self._trace = Path(settings.output) / f"trace-{rank}.jsonl"
        self._last = rank == settings.processes - 1

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        found = super().loss(module_name, self._encoded(batch), generators, samples_seen)
        line = {"seen": samples_seen, "index": batch["index"].tolist(), "ids": batch["id"].tolist()}
        line |= {"caption": batch["caption"], "size": list(batch["image" if self._settings.live else "mean"].shape[2:])}
        with self._trace.open("a") as file:
            file.write(json.dumps({**line, "loss": found["loss"].item().hex()}) + "\n")
        happen(self._settings, self._last, samples_seen, found)
        return found

    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        return super().preview(self._encoded(batch), modules)

    @torch.no_grad()
    def _encoded(self, batch: dict) -> dict:
        """The batch with latents, from the cache or of its pictures."""
        if "image" not in batch:
            return batch
        posterior = self._autoencoder.encode(batch["image"])
        return {**batch, "mean": posterior.mean, "std": (0.5 * posterior.logvar).exp()}


def train(settings: Settings, rank: int) -> int:
    """Run one process of a training. Returns its exit code."""
    signal.alarm(settings.seconds)
    torch.manual_seed(1)
    autoencoder = tiny_autoencoder()
    pictures = PictureDataset(
        settings.data,
        16,
        cache_pictures="false" if settings.decode else "auto",
        bad_pictures=BadPictures(Path(settings.output) / "bad_pictures.jsonl"),
        buckets=BucketConfig(step=settings.step),
    )
    as_they_are = settings.live or settings.task == "clip"
    dataset = pictures if as_they_are else LatentDataset(pictures, autoencoder, Path(settings.data) / ".cache")
    Path(settings.output).mkdir(parents=True, exist_ok=True)
    (Path(settings.output) / f"process-{rank}").write_text(str(os.getpid()))
    config = LoopConfig(
        samples=SAMPLES,
        batch_size=BATCH,
        micro_batch_size=BATCH // settings.processes // settings.accumulation,
        learning_rate=1e-3,
        clip_norm=0.1,  # shortens most gradients
        lr_shape="cosine",
        warmup=2,
        ema_half_life=32,
        ema_more=(8.0,),
        precision="fp32",
        log_every=BATCH,
        preview_every=settings.preview_every,
        save_every=16,
        save_minutes=0,
        max_skipped=2,
        trackers=(),
        validate_every=settings.validate_every,
        validation_samples=8,
    )
    objective: ClipObjective | LatentDiffusionObjective
    if settings.task == "clip":
        objective = _Clip(settings, pictures.all_captions(), rank)
        export = partial(write_clip, objective)
    else:
        objective = _Recorded(settings, autoencoder, rank)
        export = partial(write_model, objective, 16, torch.float32)
    trainer = trainer_of(objective, _Named(dataset), config, Path(settings.output), export)
    trainer.fit()
    return 130 if trainer.interrupted else 3 if trainer.divergence else 0


def _fork(settings: Settings) -> list[int]:
    """Run a training in its own processes, as `accelerate launch` would start them. Returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(settings.processes):
        child = os.fork()
        if child == 0:
            os.environ["ACCELERATE_USE_CPU"] = "true"
            if settings.sharded:
                os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
                os.environ["FSDP_RESHARD_AFTER_FORWARD"] = str(settings.reshard).lower()
            if settings.processes > 1:
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": settings.processes, "MASTER_PORT": port}
                os.environ |= {key: str(value) for key, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"}
            sys.stdout = sys.stderr
            code = 1
            try:
                code = train(settings, rank)
            except Exception as error:
                traceback.print_exc()
                code = LOST_PEER if "gloo" in str(error) else 1
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = []
    for child in reversed(children):  # the last one is the one that dies by itself
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if codes[-1] == -signal.SIGKILL:
            for other in children[: -len(codes)]:
                os.kill(other, signal.SIGKILL)
    # Who notices that a killed one is gone before being killed too ends with an error of its connection: the same end.
    killed = -signal.SIGKILL in codes
    return [-signal.SIGKILL if killed and code == LOST_PEER else code for code in codes]


def main() -> None:
    """See the top of the file."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        sys.exit(train(Settings(**json.loads(sys.argv[1])), int(os.environ.get("RANK", "0"))))
    for line in sys.stdin:
        print(json.dumps(_fork(Settings(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
