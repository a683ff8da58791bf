"""Pictures per second that the loader alone gives, from a folder and from shards: `python benchmarks/data.py`.

Writes `--pictures` JPEG files of `--edge` pixels into a temporary place, once as a folder with text files beside them
and once as a shard, and loads batches of them at `--size` pixels as a training does, with 0, 1 and 2 workers: decoded
anew each time (`data.cache_pictures: "false"`) and from the cache of decoded pictures. The clock starts at the first
batch, when the workers run. The files are in the page cache. Every number is the median of `--rounds` that take turns.
The last column is pictures per second of processor time without a worker, which other work on the machine leaves alone.

The second table is what the thread of `loop.prefetch` gives without a worker, beside a step that sleeps for `--step`
milliseconds as the processor does while a GPU works: time of a step, and how much of it was spent on waiting for data.

Prints the tables of docs/training/data.md. `taskset -c 1` keeps it on one core.
"""

import argparse
import io
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.training.batches.loader import BatchLoader
from ldm.training.config import LoopConfig

SOURCES, PIXELS, WORKERS, PREFETCH = ("folder", "shards"), ("decoded", "cached"), (0, 1, 2), (0, 2)


@dataclass(frozen=True)
class Load:
    """What is loaded: `pictures` files of `edge` pixels at `size`, in batches."""

    pictures: int = 256
    edge: int = 512
    size: int = 256
    batch: int = 16


@dataclass(frozen=True)
class Speed:
    """Seconds for one batch, those of them spent on waiting for it, and the processor's seconds of this process."""

    seconds: float
    waited: float
    processor: float


def write_pictures(root: Path, load: Load) -> None:
    """The same pictures as `root/folder/train/*.jpg` and in `root/shards/train/000000.tar`."""
    folder = root / "folder" / "train"
    folder.mkdir(parents=True)
    random, samples = np.random.default_rng(0), []
    for number in range(load.pictures):
        coarse = Image.fromarray(random.integers(0, 256, (load.edge // 16, load.edge // 16, 3), dtype=np.uint8))
        encoded = io.BytesIO()
        coarse.resize((load.edge, load.edge), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        name, caption = f"{number:06d}", f"picture {number}"
        (folder / f"{name}.jpg").write_bytes(encoded.getvalue())
        (folder / f"{name}.txt").write_text(caption)
        samples.append(Sample(name, encoded.getvalue(), {"captions": [caption]}))
    write_shard(root / "shards" / "train" / "000000.tar", samples)


def open_pictures(root: Path, source: str, pixels: str, load: Load) -> PictureDataset:
    """The data set of one row of the table."""
    return PictureDataset(root / source, load.size, cache_pictures="true" if pixels == "cached" else "false")


def run(dataset: PictureDataset, load: Load, workers: int, prefetch: int, step: float = 0) -> Speed:
    """Load every picture once, with `step` seconds of sleep after each batch; means over all batches but the first."""
    samples = len(dataset) // load.batch * load.batch
    config = LoopConfig(samples=samples, batch_size=load.batch, workers=workers, prefetch=prefetch)
    feed = BatchLoader(dataset, config, processes=1, rank=0)
    steps = feed.steps(0, torch.device("cpu"))
    next(steps)
    feed.waited()
    start, processor, batches = time.perf_counter(), time.process_time(), 0
    for _ in steps:
        time.sleep(step)
        batches += 1
    waited = float(feed.waited()["data/wait_ms"]) / 1000
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return Speed(seconds / batches, waited / batches, processor / batches)


def measure_loader(root: Path, load: Load, rounds: int) -> dict[tuple[str, str, int], Speed]:
    """Medians by source, pixels and workers."""
    found: dict[tuple[str, str, int], list[Speed]] = {}
    for _ in track(range(rounds), "loading"):
        for source in SOURCES:
            for pixels in PIXELS:
                dataset = open_pictures(root, source, pixels, load)
                for workers in WORKERS:
                    found.setdefault((source, pixels, workers), []).append(run(dataset, load, workers, prefetch=2))
    return {key: _medians(speeds) for key, speeds in found.items()}


def measure_thread(root: Path, load: Load, rounds: int, step: float) -> dict[int, Speed]:
    """A step and its wait by `loop.prefetch`, without workers, decoding from the folder."""
    dataset = open_pictures(root, "folder", "decoded", load)
    found: dict[int, list[Speed]] = {prefetch: [] for prefetch in PREFETCH}
    for _ in track(range(rounds), "with a step that sleeps"):
        for prefetch, speeds in found.items():
            speeds.append(run(dataset, load, workers=0, prefetch=prefetch, step=step))
    return {prefetch: _medians(speeds) for prefetch, speeds in found.items()}


def _medians(speeds: list[Speed]) -> Speed:
    return Speed(*(median(getattr(speed, field.name) for speed in speeds) for field in fields(Speed)))


def table(load: Load, loader: dict[tuple[str, str, int], Speed], thread: dict[int, Speed], step: float) -> str:
    """Both tables in Markdown."""
    head = " | ".join(f"{workers} workers" for workers in WORKERS)
    lines = [f"| pictures/s | {head} | of processor time |", "|---|" + "---:|" * (len(WORKERS) + 1)]
    for source in SOURCES:
        for pixels in PIXELS:
            speeds = [load.batch / loader[source, pixels, workers].seconds for workers in WORKERS]
            speeds.append(load.batch / loader[source, pixels, 0].processor)
            lines.append(f"| {source}, {pixels} | {' | '.join(f'{speed:,.0f}' for speed in speeds)} |")
    lines += [
        "",
        f"| a step that sleeps {1000 * step:.0f} ms | ms a step | of which waiting for data |",
        "|---|---:|---:|",
    ]
    for prefetch, speed in thread.items():
        name = f"`loop.prefetch={prefetch}`"
        lines.append(f"| {name} | {1000 * speed.seconds:.0f} | {speed.waited / speed.seconds:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=Load.pictures)
    parser.add_argument("--edge", type=int, default=Load.edge)
    parser.add_argument("--size", type=int, default=Load.size)
    parser.add_argument("--batch", type=int, default=Load.batch)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", type=float, default=200, help="milliseconds")
    given = parser.parse_args()
    load = Load(given.pictures, given.edge, given.size, given.batch)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), load)
        loader = measure_loader(Path(folder), load, given.rounds)
        thread = measure_thread(Path(folder), load, given.rounds, given.step / 1000)
    print(table(load, loader, thread, given.step / 1000))


if __name__ == "__main__":
    main()
