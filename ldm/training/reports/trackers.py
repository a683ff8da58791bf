"""TensorBoard and Weights & Biases, both by accelerate's trackers. Neither is imported unless it is configured."""

import logging
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from omegaconf import OmegaConf
from torch import Tensor

from ldm.io.disk.files import write_file
from ldm.training.config import TRACKERS
from ldm.training.stages.base import Run

_RUN_ID = "wandb_id"
_log = logging.getLogger(__name__)


class Trackers:
    """The trackers of a training, to which the main process passes scalars and pictures at the clock of samples seen.

    TensorBoard's files are in `tensorboard/` of the output folder, W&B's in `wandb/`; `WANDB_MODE=offline` sends
    nothing, and `wandb sync` sends it later. The id of the W&B run is kept in the output folder, so that a resumed
    training continues the same run. A tracker that fails on the way is a warning, not the end of the training.

    Args:
        accelerator: of the training.
        run: the settings, shown with the run: which trackers, the project's name, and the folder.

    Raises:
        ValueError: a tracker's package is not installed; names the field and the extra that brings it.
    """

    def __init__(self, accelerator: Accelerator, run: Run) -> None:
        config = run.loop
        for name in config.trackers:
            if find_spec(name) is None:
                raise ValueError(
                    f"loop.trackers={list(config.trackers)}: {name} is not installed; pip install"
                    f" 'ldm[{TRACKERS[name]}]', or leave it out"
                )
        self._accelerator, self._config, self._folder, self._run = accelerator, config, Path(run.output), run

    def start(self, samples_seen: int) -> None:
        """Begin, or continue at this clock: what TensorBoard has from beyond it is hidden.

        Raises:
            ValueError: W&B will not begin (without a key, say); its own words, and what to do.
        """
        if not self._config.trackers:
            return
        accelerator, config = self._accelerator, self._config
        board = str(self._folder / "tensorboard")
        accelerator.project_configuration.logging_dir = board
        accelerator.log_with = filter_trackers(list(config.trackers), board)
        settings: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": samples_seen + 1}}
        if "wandb" in config.trackers:
            settings["wandb"] = self._wandb()
        try:
            accelerator.init_trackers(config.project, init_kwargs=settings)
        except Exception as error:
            if type(error).__module__.split(".")[0] != "wandb":
                raise
            raise ValueError(
                f"loop.trackers: wandb does not start ({' '.join(str(error).split())}); run `wandb login`, set"
                " WANDB_MODE=offline, or leave it out"
            ) from error

    def log(self, values: dict[str, float], samples_seen: int) -> None:
        """Pass scalars on."""
        for tracker in self._accelerator.trackers:
            try:
                tracker.log(values, step=samples_seen)
            except OSError as error:
                _log.warning("logging scalars to %s failed: %s", tracker.name, error)

    def picture(self, name: str, grid: Tensor, samples_seen: int) -> None:
        """Pass on a picture (H, W, 3), uint8."""
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            try:
                tracker.log_images({name: grid.numpy()[None]}, step=samples_seen, **layout)
            except OSError as error:
                _log.warning("logging the picture %s to %s failed: %s", name, tracker.name, error)

    def close(self) -> None:
        """Write out what is pending."""
        # Not `end_training`, which also ends the group of processes.
        for tracker in self._accelerator.trackers:
            try:
                tracker.finish()
            except OSError as error:
                _log.warning("closing %s failed: %s", tracker.name, error)
        self._accelerator.trackers = []

    def _wandb(self) -> dict[str, Any]:
        """The arguments of `wandb.init`."""
        file = self._folder / _RUN_ID
        if not file.is_file():
            write_file(file, f"{secrets.token_hex(6)}\n".encode())
        return {
            "id": file.read_text().strip(),
            "name": self._config.run_name or self._folder.resolve().name,
            "resume": "allow",
            "dir": str(self._folder),
            "config": OmegaConf.to_container(OmegaConf.structured(self._run)),
        }
