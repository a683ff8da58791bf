"""The statistics of an autoencoder's latents, kept beside its weights.

`latent_statistics.json` records mean, standard deviation and scale. diffusers knows one number of them, the
`scaling_factor` of `config.json`: it is filled in where nobody has stated one, and never changed, because a denoiser
may have been trained with it.
"""

from pathlib import Path
from typing import Any

from autoencoder.statistics import LatentStatistics
from ldm.io.disk.files import read_json, write_json
from ldm.io.folder.autoencoder import autoencoder_config

STATISTICS_FILE = "latent_statistics.json"


def write_statistics(path: Path, statistics: LatentStatistics, pictures: int, size: int) -> float:
    """Keep the statistics in the folder of an autoencoder, or of a model that has one.

    pictures, size: what they rest on, how many and of how many pixels.

    Returns the scale that is in use from now on. Raises ModelFileError if there is no autoencoder.
    """
    folder = autoencoder_folder(path)
    config = settled_config(path)
    document = {"mean": statistics.mean, "std": statistics.std, "scale": statistics.scale}
    write_json(folder / STATISTICS_FILE, {**document, "pictures": pictures, "size": size})
    if "scaling_factor" not in config:
        config["scaling_factor"] = statistics.scale
        write_json(folder / "config.json", config)
    return config["scaling_factor"]


def require_statistics(path: Path, data: str, size: int) -> None:
    """Raise ValueError, with the command to run, for an autoencoder whose latents nobody has measured."""
    if "scaling_factor" not in settled_config(path):
        raise ValueError(
            f"autoencoder={path} has no latent statistics, so the scale of its latents is unknown; "
            f"run `ldm autoencoder stats {path} --data {data} --size {size}`"
        )


def settled_config(path: Path) -> dict[str, Any]:
    """`config.json` of an autoencoder, with `scaling_factor` where it is settled.

    It is where it is written down, and in a model of before that field, whose denoiser has learned diffusers' default.
    """
    file = autoencoder_folder(path) / "config.json"
    config = read_json(file)
    if "scaling_factor" not in config and (path / "unet").is_dir():
        config["scaling_factor"] = autoencoder_config(config, str(file))[1].scale
    return config


def autoencoder_folder(path: Path) -> Path:
    """The `vae` folder of a model, or the path itself."""
    return path / "vae" if (path / "vae").is_dir() else path
