"""`ldm train CONFIG [a.b=c ...]`, which `train_ldm.py` runs too, `ldm train status RUN` and `ldm train plan CONFIG`."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ldm.cli.errors import say

if TYPE_CHECKING:
    from ldm.training.loop import Trainer

_RESUME = "resume="
DIVERGED = 3


class _RunIsMeant(TyperGroup):
    """`ldm train x.yaml` means `ldm train run x.yaml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


train_app = typer.Typer(
    cls=_RunIsMeant,
    no_args_is_help=True,
    help="Train one stage: ldm train CONFIG [a.b=c ...]. Or look at a training: ldm train status RUN. "
    "Or know beforehand what it takes: ldm train plan CONFIG.",
)


@train_app.command(epilog="Example: ldm train own_pictures data.folder=pictures")
def run(
    config: Annotated[str, typer.Argument(help="A file, or the name of a recipe: ldm recipes list.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[a.b=c ...]", help="Settings that differ; resume=auto, never or a checkpoint.", show_default=False
        ),
    ] = None,
) -> None:
    """Train one stage; the same command goes on where an interrupted one was. The word `run` may be left out."""
    for setting in settings or []:
        if "=" not in setting:
            raise ValueError(f"{setting!r} is no setting; write name=value, e.g. loop.batch_size=16")
    _warn_of_one_process()
    from ldm.training.stages.shipped_configs import find_config

    path = find_config(config)  # a wrong name is told before torch is imported
    from ldm.cli.progress import Bars
    from ldm.training.stages.config_file import load_run
    from ldm.training.stages.train import train as train_run

    overrides = [setting for setting in settings or [] if not setting.startswith(_RESUME)]
    resume = [setting.removeprefix(_RESUME) for setting in settings or [] if setting.startswith(_RESUME)]
    with Bars() as bars:
        settings_of_run = load_run(path, overrides)
        trainer = train_run(settings_of_run, resume[-1] if resume else "auto", keep_memory=True, progress=bars)
    _say_where_the_model_is(trainer)
    if trainer.divergence:
        message = f"{trainer.divergence}; the weights of the last good step are saved after {trainer.samples_seen:,}"
        mend = "samples; see skipped.jsonl for the samples of these steps, or try a smaller loop.learning_rate"
        say(f"stopped: {message} {mend}")
        raise typer.Exit(DIVERGED)
    if trainer.interrupted:
        print(
            f"ldm: interrupted after {trainer.samples_seen:,} samples; the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(128 + trainer.interrupted_by)


@train_app.command(epilog="Example: ldm train status runs/digits/ldm")
def status(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The output folder of a training.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how far a training is: step, loss curve, learning rate, time left, last checkpoint, skipped steps."""
    from dataclasses import asdict

    from ldm.training.reports.status import describe, read_status

    found = read_status(folder)
    print(json.dumps(asdict(found), default=str) if as_json else describe(found))


@train_app.command(epilog="Example: ldm train plan sd15 --processes 8 --hours 48")
def plan(
    config: Annotated[str, typer.Argument(help="A file, or the name of a recipe, e.g. sd15.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[a.b=c ...]", help="Settings that differ.", show_default=False)
    ] = None,
    processes: Annotated[int, typer.Option(help="Devices, one process each.")] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="Split weights and moments among them (FSDP).")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="The devices are CPUs, not GPUs.")] = False,
    hours: Annotated[float, typer.Option(help="When it must be done.", show_default=False)] = 0.0,
    tflops: Annotated[float, typer.Option(help="What a device really does, in TFLOP/s.", show_default=False)] = 0.0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few passes on this machine in place of --tflops.")
    ] = False,
    price: Annotated[float, typer.Option(help="Of a device for an hour.", show_default=False)] = 0.0,
    memory: Annotated[float, typer.Option(help="Of a device, in GB: does it fit?", show_default=False)] = 0.0,
    factor: Annotated[int, typer.Option(help="Pixels for a latent cell of the denoiser's autoencoder.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict memory, time, cost and disk of a training without running it, and without weights or data."""
    from dataclasses import asdict

    from ldm.training.stages.shipped_configs import find_config

    path = find_config(config)  # a wrong name is told before torch is imported
    from ldm.training.estimate.estimate import Hardware, describe, estimate_training
    from ldm.training.stages.config_file import load_run

    training = load_run(path, settings or [])
    if measure:
        import torch

        from ldm.training.estimate.measure import measure_tflops

        cpu = cpu or not torch.cuda.is_available()
        micro_batch = training.loop.micro_batch_size or training.loop.batch_size // processes
        tflops = measure_tflops(training, max(micro_batch, 1), not cpu, factor)
    hardware = Hardware(processes, sharded, not cpu, hours, tflops, price, memory)
    found = estimate_training(training, hardware, factor)
    print(json.dumps(asdict(found)) if as_json else describe(found, training, hardware, factor))


@train_app.command(epilog="Example: ldm train export runs/own")
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The output folder of a training.")],
    samples: Annotated[
        int | None, typer.Option(help="Of an older checkpoint. [default: the newest]", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the model. [default: RUN/export]", show_default=False),
    ] = None,
) -> None:
    """Make a model of a checkpoint's averaged weights, also while the training runs or after it was stopped."""
    from ldm.cli.progress import Bars
    from ldm.training.stages.config_file import load_run
    from ldm.training.stages.train import export_checkpoint

    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} holds no training; name the output folder of one")
    with Bars() as bars:
        seen = export_checkpoint(load_run(folder / "config.yaml"), folder, samples, output or folder / "export", bars)
    print(f"the averaged weights after {seen:,} samples are in {output or folder / 'export'}")


def _say_where_the_model_is(trainer: "Trainer") -> None:
    """Where an ended training's model is, and what to do with it."""
    folder = trainer.folder / "export"
    if trainer.interrupted or trainer.divergence or not trainer.accelerator.is_main_process or not folder.is_dir():
        return
    if trainer.out_of_time:
        seen = f"{trainer.samples_seen:,} of {trainer.config.samples:,}"
        print(f"loop.minutes={trainer.config.minutes:g} are over after {seen} samples; the same command goes on")
    print(f"the model is in {folder}")
    if (folder / "model_index.json").is_file():
        print(f'draw with it: ldm generate "..." --model {trainer.folder}')


def _warn_of_one_process() -> None:
    """`accelerate launch --cpu --num_processes 2` starts a single process, unless mpirun does it, and says nothing."""
    several = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if several and not any(name.endswith(("WORLD_SIZE", "PMI_SIZE")) for name in os.environ):
        mend = "`torchrun --nproc_per_node N train_ldm.py CONFIG` starts N processes on a CPU"
        print(f"ldm: warning: accelerate started one process, although more were requested; {mend}", file=sys.stderr)
