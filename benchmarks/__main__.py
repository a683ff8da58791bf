"""`python -m benchmarks [names] [--gpu]`: times and memory of this project beside other programs, as tables and JSON.

All sides of a comparison take turns in one run; their outputs are compared before a time counts. Sides that do not fit
into memory together are built one at a time, each in a process of its own, in --rounds rounds. A side that fails, or
takes longer than --limit, is a row with the reason. Without names all run, which takes hours on one core; `--list` says
what there is, and which benchmarks have a command of their own. Writes results.json, and with `ldm[bench]` installed
results.png, into --output.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.measuring import FAILED, SAME, Comparison, Options, short_name
from benchmarks.tables import machine, plot, record, table
from ldm.engine.names import AUTO, ENGINES
from ldm.engine.placement import dtype_for
from ldm.io.disk.files import write_json
from ldm.naming import look_up


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        place: module and function `(Options) -> Iterator[Comparison]`.
        measures: for people.
        takes: on one core.
        dtype: the number format on CPUs where none is named.
    """

    place: str
    measures: str
    takes: str
    dtype: str = "float32"


BENCHMARKS = {
    "unet_emoji": Benchmark("unet:run_emoji", "a guided step of the shipped model", "seconds"),
    "unet_sd1": Benchmark("unet:run_sd1", "a guided step of SD 1.5's size, 512 px", "15 minutes, 11 GB"),
    "unet_sdxl": Benchmark("unet:run_sdxl", "a guided step of SDXL's size, 1024 px", "an hour, 20 GB", AUTO),
    "decoding_512": Benchmark("decoding:run_512", "decoding 512 px and its memory, SD's size", "2 minutes"),
    "decoding": Benchmark("decoding:run", "likewise 512, 1024 and 2048 px", "an hour, 10 GB", AUTO),
    "text_encoder": Benchmark("text_encoder:run", "CLIP-L and OpenCLIP bigG on two prompts", "1 minute, 9 GB"),
    "drawing_emoji": Benchmark("drawing:run_emoji", "warm pictures of the shipped model", "1 minute"),
    "drawing_sd1": Benchmark("drawing:run_sd1", "512 px in 20 steps, SD 1.5's size", "1 hour, 22 GB"),
    "pipeline_steps": Benchmark(
        "pipeline_steps:run",
        "a step within a drawing, SD 1.5's size, by stable-diffusion.cpp, too",
        "an hour, 9 GB",
        AUTO,
    ),
    "process": Benchmark("drawing:run_process", "a whole process, from the shell to the PNG", "1 minute"),
    "batches": Benchmark("batches:run", "pictures a second by batch size, 1 to 16", "3 minutes"),
    "memory": Benchmark("memory:run", "peak memory and time to open SD 1.5's size, and to draw", "8 minutes, 10 GB"),
}
OTHERS = {
    "data": "pictures a second of the loader",
    "editing": "how well words edit pictures",
    "fewer_evaluations": "time and distance of caches and of guidance that is not always there",
    "fit_preview": "fits a model's preview matrix",
    "loading": "opening model folders of any family, beside diffusers",
    "reconstruction": "PSNR of reconstructions",
    "samplers": "how far each sampler is from its own limit",
    "task_laws": "what tasks keep, beside diffusers",
    "training": "training steps, beside diffusers' script",
    "tune_restoration": "looks for settings of the classical filters",
}
"""Benchmarks with a command line of their own."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line names.

    Args:
        arguments: in place of the command line's.
    """
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="see --list; all without any")
    parser.add_argument("--gpu", action="store_true", help="on the CUDA GPU, in float16 and bfloat16")
    formats = [AUTO, *(short_name(each) for each in SAME)]
    parser.add_argument("--dtype", nargs="+", choices=formats, help=f"{AUTO}: the fastest safe one")
    parser.add_argument("--repetitions", type=int, default=3, help="of each side, after one that is not counted")
    parser.add_argument("--rounds", type=int, default=2, help="in which sides are built anew that do not fit together")
    parser.add_argument("--limit", type=float, default=15, metavar="MINUTES", help="of a process of a side's own")
    parser.add_argument("--engines", nargs="+", default=(), choices=[each for each in ENGINES if each != AUTO])
    parser.add_argument("--compiled", action="store_true", help="compiled networks too: minutes each, one at a time")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to see that all works")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="what there is")
    wanted = parser.parse_args(arguments)
    if wanted.list:
        print(listing())
        return
    try:
        chosen = {name: benchmark_of(name) for name in wanted.names or BENCHMARKS}
        options = _options(wanted)
    except ValueError as error:
        parser.error(str(error))
    with quiet():
        _measure(chosen, options, wanted.output)


def _measure(chosen: Mapping[str, Benchmark], options: Options, folder: Path) -> None:
    about, found = machine(options), []
    print(f"{about['processor']} ({', '.join(about['features'])}), {about['threads']} thread(s), {about['versions']}\n")
    for benchmark in chosen.values():
        module, function = benchmark.place.split(":")
        own = options if options.dtypes else replace(options, dtypes=(dtype_for(benchmark.dtype, options.device),))
        for comparison in getattr(import_module(f"benchmarks.{module}"), function)(own):
            found.append(comparison)
            print(table(comparison), end="\n\n", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "results.json", record(about, found))
    _summarise(found, folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' bars and warnings out of the tables, in processes that are started too."""
    before = dict(os.environ)
    os.environ |= {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def benchmark_of(name: str) -> Benchmark:
    """A benchmark by its name.

    Raises:
        ValueError: an unknown one, with the nearest; one that has a command of its own, with that.
    """
    if name in OTHERS:
        raise ValueError(f"{name} has a command line of its own: python -m benchmarks.{name} --help")
    return look_up("benchmark", name, BENCHMARKS)


def listing() -> str:
    """Names, what they measure, how long they take."""
    lines = [f"{name:16}  {each.measures} ({each.takes})" for name, each in BENCHMARKS.items()]
    lines += ["", "With a command line of their own, python -m benchmarks.NAME:"]
    return "\n".join(lines + [f"{name:16}  {measures}" for name, measures in OTHERS.items()])


def _options(wanted: argparse.Namespace) -> Options:
    if wanted.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu needs a CUDA GPU, and torch finds none; leave it out")
    for name in ("repetitions", "rounds"):
        if getattr(wanted, name) < 1:
            raise ValueError(f"--{name} {getattr(wanted, name)} must be 1 or more")
    if not wanted.limit > 0:
        raise ValueError(f"--limit {wanted.limit:g} must be above 0 minutes")
    device = torch.device("cuda" if wanted.gpu else "cpu")
    names = wanted.dtype or (["float16", "bfloat16"] if wanted.gpu else [])
    return Options(
        device=device,
        dtypes=tuple(dict.fromkeys(dtype_for(name, device) for name in names)),
        repetitions=wanted.repetitions,
        quick=wanted.quick,
        compiled=wanted.compiled,
        only=tuple(wanted.engines),
        rounds=wanted.rounds,
        limit=60 * wanted.limit,
    )


def _summarise(found: list[Comparison], folder: Path) -> None:
    losses = [loss for each in found for loss in each.losses()]
    print("Where we lose:" if losses else "We lose nowhere.", *losses, sep="\n- ")
    try:
        plot([each for each in found if any(side.seconds for side in each.sides)], folder / "results.png")
    except ImportError:
        print("No plot: pip install 'ldm[bench]'", file=sys.stderr)
    print(f"\n{folder / 'results.json'}")
    broken = [f"{side.name}: {side.note}" for each in found for side in each.sides if side.ours and FAILED in side.note]
    if broken:
        sys.exit("\n".join(["Faults of ours:", *broken]))


if __name__ == "__main__":
    main()
