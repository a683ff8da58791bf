"""The one training loop. It knows nothing of what it trains: an `Objective` supplies the loss."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from ldm.engine.precision import best_dtype
from ldm.training.checkpoint import PlayerState, load_checkpoint, newest_intact, save_checkpoint
from ldm.training.config import LoopConfig
from ldm.training.ema import Ema
from ldm.training.interrupt import Interrupt
from ldm.training.learning_rate import learning_rate
from ldm.training.objective import Batch, Dataset, Objective
from ldm.training.order import SampleOrder, generator_for, mix
from ldm.training.report import Report

_LOADING, _LOSS, _MODULES = 0, 1, 2  # streams of randomness


class _LossOf(nn.Module):
    """A player's loss as a module's forward pass, which is what accelerate's wrappers (DDP, FSDP) expect."""

    def __init__(self, objective: Objective, player: str) -> None:
        super().__init__()
        self.module = objective.players[player]
        self._objective = objective
        self._player = player

    def forward(self, batch: Batch, generators: list[torch.Generator], samples_seen: int) -> dict[str, Tensor] | None:
        return self._objective.loss(self._player, batch, generators, samples_seen)


class _Ordered(torch.utils.data.Dataset):
    """A dataset addressed by global position in the training instead of by sample id."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self._order = SampleOrder(dataset.weights, seed)
        self._seed = seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = self._dataset.item(self._order[position], generator_for(self._seed, position, _LOADING))
        return {**item, "index": position}


class Trainer:
    """Trains an objective on a dataset, resumable at any optimizer step.

    Args:
        objective, dataset: what to train, on what.
        config: the loop's settings.
        folder: receives `checkpoints/`, `previews/`, `stats.jsonl`, TensorBoard files and `export/`.
        config_yaml: the resolved configuration of the whole run, kept beside every checkpoint.
        preview_dataset: where previews come from; the training data when absent.
    """

    def __init__(
        self,
        objective: Objective,
        dataset: Dataset,
        config: LoopConfig,
        folder: Path,
        config_yaml: str = "",
        preview_dataset: Dataset | None = None,
    ) -> None:
        self.objective, self.dataset, self.config, self.folder = objective, dataset, config, folder
        self.preview_dataset = preview_dataset or dataset
        self.config_yaml = config_yaml
        self.samples_seen = 0
        self.interrupted = False
        self.accelerator = Accelerator(mixed_precision=_autocast(config.precision))
        device = self.accelerator.device
        self.players = {name: self._player(module.to(device)) for name, module in objective.players.items()}
        losses = [_LossOf(objective, name) for name in self.players]
        self.losses = {name: self.accelerator.prepare(loss) for name, loss in zip(self.players, losses, strict=True)}

    def fit(self, resume: str = "auto") -> None:
        """Train until `config.samples` are seen, or until Ctrl-C or SIGTERM, which save and return.

        Args:
            resume: `auto` goes on from the newest intact checkpoint if there is one, `never` refuses to overwrite
                existing checkpoints, anything else is the path of a checkpoint.
        """
        self._resume(resume)
        with Report(self.folder, self.config, self.accelerator.is_main_process, self.samples_seen) as report:
            with Interrupt() as interrupt:
                for micro_batches in self._steps():
                    scalars = self._step(micro_batches)
                    report.log(self.samples_seen, scalars)
                    if report.preview_is_due(self.samples_seen) and self.accelerator.is_main_process:
                        report.pictures(self.samples_seen, self._preview())
                    if report.save_is_due(self.samples_seen):
                        self.save()
                    if self._anyone(interrupt.wished):
                        self.interrupted = True
                        break
            self.save()
            if self.accelerator.is_main_process and not self.interrupted:
                report.pictures(self.samples_seen, self._preview())
                self.export(self.folder / "export")

    def save(self) -> None:
        """Write a checkpoint of the present state (the main process does; the state is the same on all)."""
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.folder / "checkpoints", self._states(), self.samples_seen, self.config_yaml, self.config.keep
            )

    def export(self, folder: Path) -> None:
        """Write the averaged players in the form that users load."""
        folder.mkdir(parents=True, exist_ok=True)
        self.objective.export(folder, {name: ema.module for name, (_, ema, _) in self.players.items()})

    def _anyone(self, interrupted: bool) -> bool:
        """Processes hear signals at different times; they must leave the loop after the same step."""
        if self.accelerator.num_processes == 1:
            return interrupted
        flag = torch.tensor(float(interrupted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _player(self, module: nn.Module) -> tuple[nn.Module, Ema, torch.optim.Optimizer]:
        config = self.config
        decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            fused=True,
        )
        return module, Ema(module, config.ema_half_life), optimizer

    def _states(self) -> dict[str, PlayerState]:
        return {
            name: PlayerState(module, ema.module, optimizer) for name, (module, ema, optimizer) in self.players.items()
        }

    def _resume(self, resume: str) -> None:
        folder = self.folder / "checkpoints"
        newest = newest_intact(folder)
        if resume == "never" and newest is not None:
            raise ValueError(f"output={self.folder} already holds a training; use resume=auto or another output")
        path = newest if resume in ("auto", "never") else Path(resume)
        if path is not None:
            self.samples_seen = load_checkpoint(path, self._states())

    def _steps(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process for every optimizer step that is left."""
        config, accelerator = self.config, self.accelerator
        processes, rank = accelerator.num_processes, accelerator.process_index
        if config.batch_size % processes:
            raise ValueError(f"loop.batch_size={config.batch_size} does not divide among {processes} processes")
        share = config.batch_size // processes
        micro = min(config.micro_batch_size or share, share)
        positions = [
            list(range(first, min(first + micro, start + (rank + 1) * share)))
            for start in range(self.samples_seen, config.samples, config.batch_size)
            for first in range(start + rank * share, start + (rank + 1) * share, micro)
        ]
        loader = DataLoader(
            _Ordered(self.dataset, config.seed),
            batch_sampler=positions,  # type: ignore[arg-type]
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
        )
        count = -(-share // micro)
        batches = iter(loader)
        for _ in range(len(positions) // count):
            yield [_to_device(next(batches), accelerator.device) for _ in range(count)]

    def _step(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        config = self.config
        step = self.samples_seen // config.batch_size
        scalars: dict[str, Tensor] = {}
        rate = learning_rate(
            step,
            config.steps,
            peak=config.learning_rate,
            warmup=config.warmup,
            shape=config.lr_shape,
            cooldown=config.cooldown,
        )
        torch.manual_seed(mix(config.seed, self.samples_seen, _MODULES + self.accelerator.process_index))
        for number, (name, (module, ema, optimizer)) in enumerate(self.players.items()):
            for group in optimizer.param_groups:
                group["lr"] = rate * (config.player_lr if number else 1.0)
            optimizer.zero_grad(set_to_none=True)
            losses = self._backward(name, micro_batches)
            if losses is None:
                continue
            if config.clip_norm:
                norm = torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
                scalars[f"{name}/gradient_norm"] = norm.detach()
            optimizer.step()
            ema.update(module, config.batch_size, self.samples_seen + config.batch_size)
            scalars |= {f"{name}/{key}": value for key, value in losses.items()}
        self.samples_seen += config.batch_size
        return scalars | {"learning_rate": torch.tensor(rate)}

    def _backward(self, player: str, micro_batches: list[Batch]) -> dict[str, Tensor] | None:
        """Accumulate the gradients of one player; the mean over processes of its scalars."""
        total: dict[str, Tensor] = {}
        loss_of = self.losses[player]
        for number, batch in enumerate(micro_batches):
            generators = [generator_for(self.config.seed, int(i), _LOSS) for i in batch["index"]]
            last = number == len(micro_batches) - 1
            with self.accelerator.no_sync(loss_of) if not last else nullcontext(), self.accelerator.autocast():
                losses = loss_of(batch, generators, self.samples_seen)
            if losses is None:
                return None
            self.accelerator.backward(losses["loss"] / len(micro_batches))
            for key, value in losses.items():
                total[key] = total.get(key, 0) + value.detach().float() / len(micro_batches)
        return {key: self.accelerator.reduce(value, "mean") for key, value in total.items()}

    @torch.no_grad()
    def _preview(self) -> dict[str, Tensor]:
        n = min(self.config.previews, len(self.preview_dataset))
        spread = [i * len(self.preview_dataset) // n for i in range(n)]
        items = [
            {**self.preview_dataset.item(i, generator_for(self.config.seed, i, _LOADING)), "index": i} for i in spread
        ]
        batch = _to_device(default_collate(items), self.accelerator.device)
        with self.accelerator.autocast():
            return self.objective.preview(batch, {name: ema.module for name, (_, ema, _) in self.players.items()})


def _autocast(precision: str) -> str:
    """accelerate's name of the autocast type."""
    if precision == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = "bf16" if best_dtype(device) == torch.bfloat16 else "fp32"
    return "no" if precision == "fp32" else precision


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
