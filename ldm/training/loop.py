"""The one training loop. It knows nothing of what it trains: an `Objective` supplies the loss."""

import signal
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ldm.io.disk.files import write_file
from ldm.training.batches.loader import BatchLoader, spread_batch
from ldm.training.batches.random_streams import Stream, modules_stream
from ldm.training.batches.sample_order import generator_for, mix
from ldm.training.checkpoints.checkpoint import TrainingProgress, load_checkpoint, must_stay, save_checkpoint
from ldm.training.checkpoints.checkpoint_folder import checkpoints, choose, damaged_files, tidy
from ldm.training.checkpoints.disk_space import require_disk_space
from ldm.training.checkpoints.lock import FolderLock, only_trainer
from ldm.training.config import to_yaml
from ldm.training.distributed.processes import make_accelerator, prepare_modules
from ldm.training.interrupt import Interrupt
from ldm.training.objectives.base import Batch
from ldm.training.optimization.mixed_precision import LossScale, autocast_name
from ldm.training.reports.report import Report
from ldm.training.reports.trackers import Trackers
from ldm.training.reports.validation import Validation
from ldm.training.stages.base import Run, Stage


class Trainer:
    """Trains an objective on a dataset, resumable at any optimizer step.

    Args:
        stage: what to train, on what, and how it is exported.
        run: the settings, kept beside every checkpoint. `run.output` receives `checkpoints/`, `previews/`,
            `stats.jsonl`, trackers' files and `export/`.

    Attributes:
        interrupted: Ctrl-C or SIGTERM ended `fit`.
        out_of_time: `config.minutes` ended `fit` before its last sample.
        interrupted_by: the number of that signal.
        divergence: why `fit` gave up on a loss or gradient that stayed infinite or NaN; empty if it did not.

    Raises:
        ValueError: the batch does not divide among the processes, a trainable parameter is not fp32, or the precision
            or optimizer cannot be had here.
    """

    def __init__(self, stage: Stage, run: Run) -> None:
        self.stage, self.run = stage, run
        self.objective, self.config, self.folder = stage.objective, run.loop, Path(run.output)
        config = self.config
        self.progress = TrainingProgress()
        self.interrupted, self.interrupted_by = False, int(signal.SIGINT)
        self.out_of_time = False
        self.divergence = ""
        self._lock: FolderLock | None = None
        self.accelerator = make_accelerator(autocast_name(config.precision))
        self.trackers = Trackers(self.accelerator, run)
        self.validation = Validation(stage.objective, stage.preview_dataset, config, self.accelerator)
        self.loader = BatchLoader(stage.dataset, config, self.accelerator.num_processes, self.accelerator.process_index)
        self.loss_scale = LossScale(self.accelerator)
        self.trained_modules, self.forward_backward = prepare_modules(self.accelerator, stage.objective, config)

    @property
    def samples_seen(self) -> int:
        """The training's clock."""
        return self.progress.samples_seen

    def fit(self, resume: str = "auto") -> None:
        """Train until `config.samples` are seen, Ctrl-C or SIGTERM is heard, or the loss is lost. Each of them saves.

        So does the end of `config.minutes`, which exports what there is, too.

        Args:
            resume: `auto` goes on from the newest intact checkpoint if there is one, `never` refuses to overwrite
                existing checkpoints, anything else is the path of a checkpoint.

        Raises:
            ValueError: another process trains this folder, the folder was moved or removed on the way, or there is
                nothing to go on from; says what to do.
        """
        main = self.accelerator.is_main_process
        with only_trainer(self.folder) if main else nullcontext() as self._lock:
            self._resume(resume)
            if main:
                require_disk_space(self.folder, self.trained_modules.values(), self.config, self.samples_seen)
                write_file(self.folder / "config.yaml", to_yaml(self.run).encode())
            seen, skipped = self.samples_seen, self.progress.skipped
            with Report(self.folder, self.config, main, self.trackers, seen, skipped) as report:
                with Interrupt() as interrupt:
                    self._train(report, interrupt)
                self.save()
                if not self.interrupted and not self.divergence:
                    self._show(report)
                    self._export_all()
            self.accelerator.wait_for_everyone()
        self._lock = None

    def _train(self, report: Report, interrupt: Interrupt) -> None:
        begun = time.monotonic()
        for micro_batches in self.loader.steps(self.samples_seen, self.accelerator.device):
            scalars, faults = self._step(micro_batches)
            self._check_folder()
            report.log(self.samples_seen, scalars | self.loader.waited())
            if self.validation.is_due(self.samples_seen):
                losses = self.validation(self.trained_modules)
                self._check_folder()
                report.validation(self.samples_seen, losses)
            if faults and self._skip(faults, report):
                break
            save_is_due = self.accelerator.is_main_process and report.save_is_due(self.samples_seen)
            late = bool(self.config.minutes) and time.monotonic() - begun >= 60 * self.config.minutes
            self.interrupted, save_is_due, late = self._anyone(interrupt.requested, save_is_due, late)
            self.out_of_time = late and self.samples_seen < self.config.samples
            if self.interrupted or self.out_of_time:
                self.interrupted_by = interrupt.number
                break
            if report.preview_is_due(self.samples_seen):
                self._show(report)
            if save_is_due or must_stay(self.progress, self.config):
                try:
                    self.save()
                except OSError as error:
                    report.save_failed(error)

    def save(self) -> None:
        """Write a checkpoint of the present state: all processes have to call this, the main one writes.

        Raises:
            OSError: it cannot be written; the message names the newest one that is whole.
        """
        folder, main = self.folder / "checkpoints", self.accelerator.is_main_process
        self.progress.loss_scale = self.loss_scale.state
        self._check_folder()
        try:
            save_checkpoint(folder, self.trained_modules, self.progress, self.run, main)
        except OSError as error:
            whole = next((path for path in reversed(checkpoints(folder)) if not damaged_files(path)), None)
            last = f"{whole} is whole" if whole else "there is none yet"
            raise OSError(
                f"the checkpoint of {self.samples_seen:,} samples cannot be written ({error.strerror or error}); the"
                f" newest one, {last}; free some space and run the same command again"
            ) from error

    def export(self, folder: Path, half_life: float | None = None) -> None:
        """Write the modules in the form that users load: the average of `half_life`, `None` the main one, 0 the newest.

        All processes have to call this, the main one writes.
        """
        modules = self._weights(half_life)
        self._check_folder()
        if self.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            self.stage.export(folder, modules)

    def _export_all(self) -> None:
        self.export(self.folder / "export", self.config.export_half_life)
        if self.config.export_raw:
            self.export(self.folder / "export_raw", 0)

    def _check_folder(self) -> None:
        """Stop before something is written into a folder that is no longer this training's."""
        if self._lock is not None:
            self._lock.check()

    def _anyone(self, *flags: bool) -> list[bool]:
        """Which flags any process has set: clocks and signals differ among them, and all must do the same next."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        counts = torch.tensor([float(flag) for flag in flags], device=self.accelerator.device)
        return [bool(count > 0) for count in self.accelerator.reduce(counts, "sum")]

    def _resume(self, resume: str) -> None:
        path = choose(self.folder, resume) if self.accelerator.is_main_process else None
        path = broadcast_object_list([path])[0]
        if path is not None:
            self.progress = load_checkpoint(path, self.trained_modules, self.run)
            self.loss_scale.state = self.progress.loss_scale
        if self.accelerator.is_main_process:
            tidy(self.folder / "checkpoints", path)

    def _step(self, micro_batches: list[Batch]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """One optimizer step of every trained module: scalars to log, and what was not finite and therefore skipped."""
        config, seen = self.config, self.samples_seen
        faults: dict[str, str] = {}
        rate = config.rate_at(seen // config.batch_size)
        scalars = {"learning_rate": torch.tensor(rate)}
        torch.manual_seed(mix(config.seed, seen, modules_stream(self.accelerator.process_index)))
        for number, (name, trained_module) in enumerate(self.trained_modules.items()):
            trained_module.update.start(rate * (config.lr_multiplier if number else 1.0))
            losses = self._backward(name, micro_batches)
            if losses is None:
                continue
            self.loss_scale.unscale(trained_module.optimizers)
            losses["gradient_norm"] = norm = trained_module.update.norm().detach()
            if bool(torch.isfinite(norm) & torch.isfinite(losses["loss"])):
                trained_module.step(norm, config.clip_norm, config.batch_size, seen + config.batch_size)
                scalars |= {f"{name}/{key}": value for key, value in losses.items()}
            else:
                trained_module.skip()
                faults |= {f"{name}/{key}": f"{losses[key]:g}" for key in ("loss", "gradient_norm")}
        self.progress.samples_seen += config.batch_size
        if not faults:
            self.progress.skipped_in_a_row = 0
        self.loss_scale.update()
        return scalars, faults

    def _skip(self, faults: dict[str, str], report: Report) -> bool:
        """Count and write down a skipped step. Whether there were too many in a row to go on."""
        progress, start = self.progress, self.samples_seen - self.config.batch_size
        progress.skipped += 1
        # fp16 finds its loss scale by overflowing: that is no sign of a lost training.
        if not self.loss_scale.is_searching or "nan" in faults.values():
            progress.skipped_in_a_row += 1
        report.skip(self.samples_seen, faults, self.loader.sample_ids(start))
        if progress.skipped_in_a_row < self.config.max_skipped:
            return False
        reason = ", ".join(f"{name} {value}" for name, value in faults.items())
        self.divergence = f"{progress.skipped_in_a_row} steps in a row were not finite ({reason})"
        return True

    def _backward(self, trained_module: str, micro_batches: list[Batch]) -> dict[str, Tensor] | None:
        """Accumulate the gradients of one trained module; the mean over processes of its scalars."""
        total: dict[str, Tensor] = {}
        forward_backward = self.forward_backward[trained_module]
        samples = sum(len(batch["index"]) for batch in micro_batches)
        for number, batch in enumerate(micro_batches):
            generators = [generator_for(self.config.seed, int(i), Stream.LOSS) for i in batch["index"]]
            last, share = number == len(micro_batches) - 1, len(generators) / samples
            losses = forward_backward.forward(batch, generators, self.samples_seen, last)
            if losses is None:
                return None
            forward_backward.backward(losses["loss"] * share)
            for key, value in losses.items():
                total[key] = total.get(key, 0) + value.detach().float() * share
        return {key: self.accelerator.reduce(value, "mean") for key, value in total.items()}

    def _weights(self, half_life: float | None) -> dict[str, nn.Module]:
        main = self.accelerator.is_main_process
        return {name: trained_module.weights(half_life, main) for name, trained_module in self.trained_modules.items()}

    @torch.no_grad()
    def _show(self, report: Report) -> None:
        """Previews by the main process, while the others wait at their next reduction."""
        modules, device = self._weights(self.config.export_half_life), self.accelerator.device
        if not self.accelerator.is_main_process:
            return
        batch = spread_batch(self.stage.preview_dataset, self.config.previews, self.config.seed, device)
        captions, own = list(batch.get("caption", [])), list(self.config.preview_prompts[: self.config.previews])
        if own and captions:
            captions = batch["caption"] = [*own, *captions[len(own) :]]
        with self.accelerator.autocast():
            pictures = self.objective.preview(batch, {name: module.to(device) for name, module in modules.items()})
        if own and "real" in pictures:
            pictures["real"] = pictures["real"].clone()
            pictures["real"][: len(own)] = 1  # nobody has the pictures of these
        self._check_folder()
        report.pictures(self.samples_seen, pictures, captions)
