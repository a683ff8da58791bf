"""Seconds and memory to open a model folder, ours against diffusers: `python -m benchmarks.loading sd1 sdxl`.

Writes a folder of random half-precision weights of the published sizes for each family into a temporary place (2 GB for
SD 1.5, 7 GB for SDXL), then opens it again and again, in turn by `ldm` and by diffusers, each in a process of its own:
the libraries are imported before the clock starts, the files are in the page cache. `load` is until the model is there;
`read` is until every weight has been read once as well, which is what mapped files put off. Peak memory is what the
process had at most after that, less what its imports took. Prints the table of docs/loading.md. Needs diffusers.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import nn

from autoencoder.kl import KLAutoencoder
from benchmarks.networks import text_config, transformers_tower
from benchmarks.processes import apart, peak_memory
from conditioning.clip.vocabulary import clip_tokenizer
from ldm.families.family import Family
from ldm.families.stable_diffusion import FAMILIES
from ldm.io.disk.files import write_json
from ldm.io.folder.autoencoder import autoencoder_fields
from ldm.io.folder.pipelines import optional_parts, pipeline_class
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.unet import unet_fields
from ldm.io.tensors.load_weights import on_meta
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.weights import LazyTensor
from ldm.networks.unet import UNet

LOADERS = ("ldm", "diffusers")
GIGABYTE = 1e9


@dataclass(frozen=True)
class Opened:
    """One opening of a folder: seconds until the model was there, and until all was read; bytes at most."""

    load: float
    read: float
    peak: float


def write_model(family: Family, folder: Path, quick: bool = False) -> int:
    """Write a folder of random fp16 weights in a family's sizes; returns their bytes.

    Args:
        family: what to write.
        folder: an empty one.
        quick: with text towers of a few thousand weights.
    """
    scheduler = scheduler_fields(**vars(family.settings(family.prediction_type or "epsilon")))
    index: dict[str, Any] = {"_class_name": pipeline_class(family.unet, has_text=True), **optional_parts(family.unet)}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    unet, autoencoder = (on_meta(lambda: UNet(family.unet)), on_meta(lambda: KLAutoencoder(family.autoencoder)))
    write_json(folder / "unet" / "config.json", unet_fields(family.unet, (family.size // 8, family.size // 8)))
    write_json(folder / "vae" / "config.json", autoencoder_fields(family.autoencoder, family.latent_scale))
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    size = _write(unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    size += _write(autoencoder, folder / "vae" / "diffusion_pytorch_model.safetensors")
    for tower in family.towers:
        config = text_config(tower, quick)
        text = on_meta(lambda config=config, tower=tower: transformers_tower(config, tower.projected))
        tokenizer = tower.folder.replace("text_encoder", "tokenizer")
        size += _write(text, folder / tower.folder / "model.safetensors")
        text.config.save_pretrained(folder / tower.folder)
        clip_tokenizer(tower.pad_token).save(folder / tokenizer)
        index |= {tower.folder: ["transformers", type(text).__name__], tokenizer: ["transformers", "CLIPTokenizer"]}
    write_json(folder / "model_index.json", index)
    return size


def _write(network: nn.Module, path: Path) -> int:
    """A file with random numbers for a network that has none; returns their bytes."""

    def random(name: str, shape: tuple[int, ...]) -> LazyTensor:
        def values(dtype: torch.dtype | None) -> torch.Tensor:
            if len(shape) == 1:  # norms begin with 1, and biases with 0
                return torch.full(shape, float(name.endswith("weight")), dtype=dtype or torch.float16)
            bound = math.prod(shape[1:]) ** -0.5
            return torch.empty(shape).uniform_(-bound, bound).to(dtype or torch.float16)

        return LazyTensor(shape, torch.float16, values)

    weights = {name: random(name, tuple(value.shape)) for name, value in network.state_dict().items()}
    write_safetensors(path, weights, {})
    return sum(weight.size for weight in weights.values())


def open_once(loader: str, folder: Path, dtype: torch.dtype) -> Opened:
    """Open a folder in this process and read all of its weights."""
    open_model = opener_of(loader)
    before = peak_memory()
    started = time.perf_counter()
    networks = open_model(folder, dtype)
    load = time.perf_counter() - started
    with torch.inference_mode():
        for network in networks:
            for parameter in network.parameters():
                parameter.amax()
    return Opened(load, time.perf_counter() - started, peak_memory() - before)


def opener_of(loader: str) -> Callable[[Path, torch.dtype], list[nn.Module]]:
    """What opens a folder and gives its networks, after all imports."""
    return _ours() if loader == "ldm" else _theirs()


def _ours() -> Callable[[Path, torch.dtype], list[nn.Module]]:
    from ldm.pipeline.pipeline import LatentDiffusion

    def open_model(folder: Path, dtype: torch.dtype) -> list[nn.Module]:
        parts = LatentDiffusion.from_pretrained(folder, dtype=dtype, device="cpu").parts
        return [network for network in (parts.unet, parts.autoencoder, parts.text) if network is not None]

    return open_model


def _theirs() -> Callable[[Path, torch.dtype], list[nn.Module]]:
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    for name in ("AutoencoderKL", "UNet2DConditionModel", "StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        getattr(diffusers, name)  # imported when asked for
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)

    def open_model(folder: Path, dtype: torch.dtype) -> list[nn.Module]:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]

    return open_model


def measure(folder: Path, rounds: int, dtype: str) -> dict[str, list[Opened]]:
    """`rounds` openings by each loader, in turn, after one of each that is not counted."""
    found: dict[str, list[Opened]] = {loader: [] for loader in LOADERS}
    for turn in track(range(rounds + 1), description=folder.name):
        for loader in LOADERS:
            opened = apart(open_once, loader, folder, getattr(torch, dtype))
            if turn:
                found[loader].append(opened)
    return found


def table(measured: dict[str, dict[str, list[Opened]]], sizes: dict[str, int]) -> str:
    """A line for every family and loader: medians, and the ratio of diffusers' to ours."""
    lines = ["| folder | opened by | load, s | load and read, s | peak memory, GB | of the weights |"]
    lines.append("|---|---|---|---|---|---|")
    for family, found in measured.items():
        middle = {
            loader: [median(getattr(each, name) for each in found[loader]) for name in ("load", "read", "peak")]
            for loader in LOADERS
        }
        for loader, (load, read, peak) in middle.items():
            share = f"{peak / sizes[family]:.0%}"
            name = f"{family}, {sizes[family] / GIGABYTE:.2f} GB"
            lines.append(f"| {name} | {loader} | {load:.2f} | {read:.2f} | {peak / GIGABYTE:.2f} | {share} |")
        ratios = [theirs / ours for ours, theirs in zip(*middle.values(), strict=True)]
        lines.append(f"| | ratio | {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Measure the families named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=["sd1"], help="sd1, sd2, sdxl, sdxl-refiner")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float16", help="what the weights are wanted in; they are stored in float16")
    wanted = parser.parse_args()
    measured, sizes = {}, {}
    for family in wanted.families:
        with tempfile.TemporaryDirectory() as place:
            sizes[family] = write_model(FAMILIES[family], Path(place) / family)
            measured[family] = measure(Path(place) / family, wanted.rounds, wanted.dtype)
    print(table(measured, sizes))


if __name__ == "__main__":
    main()
