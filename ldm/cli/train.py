"""`ldm train CONFIG [a.b=c ...]`, which is also what `train_ldm.py` runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

_RESUME = "resume="


def train(
    config: Annotated[Path, typer.Argument(help="A training, e.g. configs/emoji/ldm.yaml.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[a.b=c ...]", help="Settings that differ; resume=auto, never or a checkpoint.", show_default=False
        ),
    ] = None,
) -> None:
    """Train one stage; the same command goes on where an interrupted one was."""
    for setting in settings or []:
        if "=" not in setting:
            raise ValueError(f"{setting!r} is no setting; write name=value, e.g. loop.batch_size=16")
    from ldm.training.run import load_run
    from ldm.training.tasks import train as train_run

    overrides = [setting for setting in settings or [] if not setting.startswith(_RESUME)]
    resume = [setting.removeprefix(_RESUME) for setting in settings or [] if setting.startswith(_RESUME)]
    trainer = train_run(load_run(config, overrides), resume[-1] if resume else "auto")
    if trainer.interrupted:
        print(
            f"ldm: interrupted after {trainer.samples_seen:,} samples; the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130)


def main() -> None:
    """`train_ldm.py CONFIG ...` is `ldm train CONFIG ...`."""
    from ldm.cli import app

    app(["train", *sys.argv[1:]])
