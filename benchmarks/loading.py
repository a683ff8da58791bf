"""Seconds and memory to open a model folder, ours against diffusers: `python benchmarks/loading.py sd1 sdxl`.

Writes a folder of random half-precision weights of the published sizes for each family into a temporary place (2 GB for
SD 1.5, 7 GB for SDXL), then opens it again and again, in turn by `ldm` and by diffusers, each in a process of its own:
the libraries are imported before the clock starts, the files are in the page cache. `load` is until the model is there;
`read` is until every weight has been read once as well, which is what mapped files put off. Peak memory is what the
process had at most after that, less what its imports took. Prints the table of docs/loading.md. Needs diffusers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
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

LOADERS = ("ldm", "diffusers")
GIGABYTE = 1e9


@dataclass(frozen=True)
class Opened:
    """One opening of a folder: seconds until the model was there, and until all was read; bytes at most."""

    load: float
    read: float
    peak: float


def write_model(family: str, folder: Path) -> int:
    """Write a folder of random fp16 weights in the published sizes; returns their bytes."""
    from autoencoder.kl import KLAutoencoder
    from conditioning.clip.vocabulary import clip_tokenizer
    from ldm.families.stable_diffusion import FAMILIES
    from ldm.io.disk.files import write_json
    from ldm.io.folder.autoencoder import autoencoder_fields
    from ldm.io.folder.pipelines import optional_parts, pipeline_class
    from ldm.io.folder.scheduler import scheduler_fields
    from ldm.io.folder.unet import unet_fields
    from ldm.io.tensors.load_weights import on_meta
    from ldm.networks.unet import UNet

    kind = FAMILIES[family]
    scheduler = scheduler_fields(**vars(kind.settings(kind.prediction_type or "epsilon")))
    index: dict[str, Any] = {"_class_name": pipeline_class(kind.unet, has_text=True), **optional_parts(kind.unet)}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    unet, autoencoder = (on_meta(lambda: UNet(kind.unet)), on_meta(lambda: KLAutoencoder(kind.autoencoder)))
    write_json(folder / "unet" / "config.json", unet_fields(kind.unet, (kind.size // 8, kind.size // 8)))
    write_json(folder / "vae" / "config.json", autoencoder_fields(kind.autoencoder, kind.latent_scale))
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    size = _write(unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    size += _write(autoencoder, folder / "vae" / "diffusion_pytorch_model.safetensors")
    for tower in kind.towers:
        text, tokenizer = _text(tower.projected, tower.penultimate), tower.folder.replace("text_encoder", "tokenizer")
        size += _write(text, folder / tower.folder / "model.safetensors")
        text.config.save_pretrained(folder / tower.folder)
        clip_tokenizer(tower.pad_token).save(folder / tokenizer)
        index |= {tower.folder: ["transformers", type(text).__name__], tokenizer: ["transformers", "CLIPTokenizer"]}
    write_json(folder / "model_index.json", index)
    return size


def _text(projected: bool, penultimate: bool) -> Any:
    """CLIP-L, or OpenCLIP's bigG (with a projection) or H (without its last layer), without numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from ldm.io.tensors.load_weights import on_meta

    width, layers = (1280, 32) if projected else (1024, 23) if penultimate else (768, 12)
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        hidden_act="gelu" if projected or penultimate else "quick_gelu",
    )
    return on_meta(lambda: (CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def _write(network: nn.Module, path: Path) -> int:
    """A file with random numbers for a network that has none; returns their bytes."""
    from ldm.io.tensors.safetensors_file import write_safetensors
    from ldm.io.tensors.weights import LazyTensor

    def random(shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, torch.float16, lambda dtype: (torch.rand(shape) * 0.02).to(dtype or torch.float16))

    weights = {name: random(tuple(value.shape)) for name, value in network.state_dict().items()}
    write_safetensors(path, weights, {})
    return sum(weight.size for weight in weights.values())


def open_once(loader: str, folder: Path, dtype: torch.dtype) -> Opened:
    """Open a folder in this process and read all of its weights."""
    open_model = _ours() if loader == "ldm" else _theirs()
    before = _peak()
    started = time.perf_counter()
    networks = open_model(folder, dtype)
    load = time.perf_counter() - started
    with torch.inference_mode():
        for network in networks:
            for parameter in network.parameters():
                parameter.amax()
    return Opened(load, time.perf_counter() - started, _peak() - before)


def _ours() -> Callable[[Path, torch.dtype], list[nn.Module]]:
    import transformers

    from ldm.pipeline.pipeline import LatentDiffusion

    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)  # imported when asked for

    def open_model(folder: Path, dtype: torch.dtype) -> list[nn.Module]:
        parts = LatentDiffusion.from_pretrained(folder, dtype=dtype, device="cpu").parts
        return [network for network in (parts.unet, parts.autoencoder, parts.text) if network is not None]

    return open_model


def _theirs() -> Callable[[Path, torch.dtype], list[nn.Module]]:
    import diffusers
    import transformers

    for name in ("AutoencoderKL", "UNet2DConditionModel", "StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        getattr(diffusers, name)  # imported when asked for
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)

    def open_model(folder: Path, dtype: torch.dtype) -> list[nn.Module]:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
        return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]

    return open_model


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: Path, rounds: int, dtype: str) -> dict[str, list[Opened]]:
    """`rounds` openings by each loader, in turn, after one of each that is not counted."""
    found: dict[str, list[Opened]] = {loader: [] for loader in LOADERS}
    for turn in track(range(rounds + 1), description=folder.name):
        for loader in LOADERS:
            command = [sys.executable, __file__, "--open", str(folder), "--loader", loader, "--dtype", dtype]
            place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=place)
            if turn:
                found[loader].append(Opened(**json.loads(done.stdout.splitlines()[-1])))
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
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loader", choices=LOADERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.open is not None:
        opened = open_once(asked.loader, asked.open, getattr(torch, asked.dtype))
        print(json.dumps({"load": opened.load, "read": opened.read, "peak": opened.peak}))
        return
    measured, sizes = {}, {}
    for family in asked.families:
        with tempfile.TemporaryDirectory() as place:
            sizes[family] = write_model(family, Path(place) / family)
            measured[family] = measure(Path(place) / family, asked.rounds, asked.dtype)
    print(table(measured, sizes))


if __name__ == "__main__":
    main()
