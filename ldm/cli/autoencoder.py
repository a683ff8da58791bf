"""`ldm autoencoder stats FOLDER --data DIR`: what an LDM training must know about an autoencoder's latents."""

from pathlib import Path
from typing import Annotated

import typer

autoencoder_app = typer.Typer(help="Prepare autoencoders for the training of a denoiser.")


@autoencoder_app.callback()
def _group() -> None:
    """Keeps `stats` a subcommand while it is the only one."""


@autoencoder_app.command(epilog="Example: ldm autoencoder stats emoji/vae --data runs/data/digits")
def stats(
    folder: Annotated[Path, typer.Argument(help="An autoencoder, or a model that has one.")],
    data: Annotated[str, typer.Option(help="The pictures that a denoiser will be trained on, as data.folder.")],
    size: Annotated[int, typer.Option(help="Height and width of the pictures.")] = 256,
    pictures: Annotated[int, typer.Option(help="How many to measure; 0 measures all.")] = 4096,
) -> None:
    """Measure mean, deviation and scale of the latents, and keep them beside the autoencoder's weights."""
    if pictures < 0:
        raise ValueError(f"--pictures {pictures} is negative; 0 measures all")
    import torch

    from ldm.cli.progress import Bars
    from ldm.data.pictures.dataset import PictureDataset
    from ldm.data.sources.open_source import SourceConfig, open_source
    from ldm.io.folder.autoencoder import load_autoencoder
    from ldm.io.folder.latent_statistics import STATISTICS_FILE, autoencoder_folder, write_statistics
    from ldm.training.stages.latent_statistics import measure_dataset

    autoencoder, _ = load_autoencoder(folder)
    with Bars() as bars:
        source = open_source([SourceConfig(data)], captioned=False, progress=bars)
        dataset = PictureDataset(source, size, progress=bars)
    count = min(pictures or len(dataset), len(dataset))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Bars() as bars:
        statistics = measure_dataset(autoencoder.to(device), dataset, count, bars)
    used = write_statistics(folder, statistics, count, size)
    print("channel      mean       std")
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        print(f"{channel:7}  {mean:8.4f}  {std:8.4f}")
    print(f"scale {statistics.scale:.5f}, in {autoencoder_folder(folder) / STATISTICS_FILE}")
    if used != statistics.scale:
        print(f"scaling_factor {used:.5f} is in use already and stays")
