"""The model of a request, opened with everything that it names, once for all requests that need the same."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.cli.errors import say
from ldm.cli.report import Report
from ldm.generation.request import Request

if TYPE_CHECKING:
    from ldm.generation.drawing import Drawing
    from ldm.generation.regional_prompt import RegionalPrompt
    from ldm.generation.task import Task
    from ldm.pipeline.pipeline import LatentDiffusion

LOADING = (
    "model", "vae", "device", "dtype", "attention", "engine", "offload", "weak_model", "loras", "allow_unmatched",
    "embeddings", "prediction_type", "zero_terminal_snr", "family", "ema",
)  # fmt: skip
"""Fields of `Request` that decide what is opened; all others may change from picture to picture."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with its LoRAs and embeddings, and the worse model of autoguidance."""

    model: "LatentDiffusion"
    weak: "LatentDiffusion | None" = None
    _fitting: dict[tuple[int | None, int | None], int] = field(default_factory=dict)

    def unload(self) -> None:
        """Free their memory."""
        for model in (self.model, self.weak):
            if model is not None:
                model.unload()

    def steps(self, request: Request, task: "Task | None" = None) -> "Drawing":
        """Draw, see `LatentDiffusion.steps`."""
        return self.model.steps(request, regions=regions_of(request), weak_model=self.weak, task=task)

    def steps_for(self, request: Request) -> int:
        """How many steps it takes, before a sampler or a task adds any."""
        from ldm.generation.few_steps import steps_for

        return steps_for(self.model, request)

    def fitting_batch_size(self, request: Request) -> int:
        """How many pictures of this size to draw together; found out once for each size."""
        from ldm.generation.resolve import fitting_batch_size

        size = request.width, request.height
        if size not in self._fitting:
            self._fitting[size] = fitting_batch_size(self.model, request)
        return self._fitting[size]


class Opener:
    """Opens models, one at a time."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._key: list[Any] = []
        self._opened: Opened | None = None

    def __call__(self, request: Request) -> Opened:
        """The model of a request: the last one, where it is the same."""
        key = [getattr(request, name) for name in LOADING]
        if self._opened is None or key != self._key:
            if self._opened is not None:
                self._opened.unload()  # two large models may not fit
            self._opened = None
            self._report.loading(request.model)
            model = _load(request, request.model, request.vae, request.load_options)
            weak = _load(request, request.weak_model, None, {}) if request.weak_model else None
            for file, weight in request.loras.items():
                self._report.warn(str(model.load_lora(file, weight, allow_unmatched=request.allow_unmatched)))
            for file, word in request.embeddings.items():
                model.load_embedding(file, word)
            self._opened, self._key = Opened(model, weak), key
        return self._opened


def regions_of(request: Request) -> "list[RegionalPrompt]":
    """The prompts by mask that a request names; errors name the option."""
    from ldm.generation.regional_prompt import RegionalPrompt

    regions = []
    for mask, prompt in request.regions.items():
        try:
            regions.append(RegionalPrompt.from_file(mask, str(prompt)))
        except (OSError, ValueError) as error:
            raise type(error)(f"--region {error}") from None
    return regions


def _export_newest(run: Path) -> None:
    """Make a model of a training that has none yet: of the averages of its newest checkpoint."""
    if (run / "checkpoints").is_dir() and (run / "config.yaml").is_file() and not (run / "export").is_dir():
        from ldm.training.stages.config_file import load_run
        from ldm.training.stages.train import export_checkpoint

        seen = export_checkpoint(load_run(run / "config.yaml"), run, None, run / "export")
        say(f"{run} had no model yet; {run / 'export'} is of its averaged weights after {seen:,} samples")


def _load(request: Request, name: str, vae: str | None, load_options: dict[str, Any]) -> "LatentDiffusion":
    from ldm.io.library import known_path
    from ldm.io.shipped import shipped_models
    from ldm.pipeline.pipeline import LatentDiffusion

    dtype, device, attention, engine = request.dtype, request.device, request.attention, request.engine
    name = name if name in shipped_models() else known_path("models", name)
    _export_newest(Path(name))
    if Path(name).is_file():
        return LatentDiffusion.from_single_file(
            name, dtype, device, attention=attention, engine=engine, offload=request.offload, vae=vae, **load_options
        )
    if load_options:
        option = next(iter(load_options)).removesuffix("_type").replace("_", "-")
        raise ValueError(f"--{option} is for single files; {name} says itself what it is")
    return LatentDiffusion.from_pretrained(
        name, dtype, device, attention=attention, engine=engine, offload=request.offload, vae=vae
    )
