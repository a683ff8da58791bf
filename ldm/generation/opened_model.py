"""Models from files, folders, the hub and diffusers, and back into folders."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from autoencoder.tiny import TinyAutoencoder
from ldm.engine.choose import engine_for
from ldm.engine.eager import EAGER
from ldm.engine.engine import Engine
from ldm.engine.memory import bound_compiled_kernels, release_freed_memory
from ldm.engine.names import AUTO, ENGINES, NONE, OFFLOADS
from ldm.engine.offload import Offload, engine_name_for, offload_for
from ldm.engine.placement import device_for, dtype_for
from ldm.families.parts import ModelParts
from ldm.generation.adapted_model import AdaptedModel
from ldm.generation.keywords import explain_keywords
from ldm.io.folder.load import load_folder, save_folder
from ldm.io.locate import find_autoencoder, find_model
from ldm.io.vae import read_autoencoder
from ldm.naming import look_up
from ldm.networks.attention import set_attention
from ldm.networks.backends import BACKENDS, DEFAULT


class OpenedModel(AdaptedModel):
    """A model that was opened, and that can be saved: what a picture is generated with."""

    def __init__(
        self,
        parts: ModelParts,
        name: str = "",
        device: torch.device | str = "cpu",
        attention: str = DEFAULT,
        engine: Engine = EAGER,
        offload: str = NONE,
    ) -> None:
        """Put a model together.

        Args:
            parts: the networks, which are moved to `device`.
            name: what recipes call the model.
            device: where the networks run.
            attention: the backend of the denoising network, see `ldm.networks.attention.set_attention`.
            engine: what runs the denoising network.
            offload: how much of it is on the device at once, see `ldm.engine.offload.Offload`.

        Raises:
            ValueError: an unknown device, backend or way to offload.
        """
        bound_compiled_kernels()
        set_attention(parts.unet, attention)
        self.parts, self.name, self.device = parts, name, torch.device(device)
        self.attention, self.engine = attention, engine
        self.vae_source: str | None = None  # where the autoencoder is from, if it is not the model's own
        self.preview_autoencoder: TinyAutoencoder | None = None
        self.load_options: dict[str, Any] = {}  # what the caller said of a single file against what it says itself
        self._begin_without_adapters()
        networks = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        self._offload = Offload(offload, self.device, networks)

    @classmethod
    @explain_keywords
    def from_pretrained(
        cls,
        model: str | Path = "emoji",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        attention: str = DEFAULT,
        vae: str | Path | None = None,
        mmap: bool = True,
        engine: str = AUTO,
        offload: str = NONE,
    ) -> Self:
        """Open a shipped model by name, a model folder, or a hub id, which alone may go online.

        Args:
            model: the name, folder or id.
            dtype: a torch dtype or its name; by default fp32, and fp16 on a CUDA device, where the autoencoder stays
                fp32. `auto` is bf16 on CPUs that are fast at it, and the default elsewhere.
            device: by default the best there is.
            revision: branch, tag or commit on the hub.
            variant: which files to take where there are several, e.g. `fp16`.
            attention: the backend of the denoising network, one of `ldm.networks.backends.BACKENDS`.
            vae: an autoencoder in place of the model's own: a file, a folder, a hub id; TAESD too.
            mmap: leave weights in their files, which the system reads when they are needed. While the model lives such
                a file may be replaced but not written over or cut: the system ends a process that reads what is gone.
                False copies all into memory.
            engine: what runs the denoising network, one of `ldm.engine.names.ENGINES`: `auto` is `packed` on CPUs and
                `eager` elsewhere. One that cannot run here logs one line, and `eager` takes over.
            offload: how much of the model is on a GPU at once, one of `ldm.engine.names.OFFLOADS`, see
                `ldm.engine.offload.Offload`. A CPU logs one line, and nothing is moved; pictures are the same.

        Raises:
            ValueError: an unknown dtype, device, backend, engine or `offload`, a revision of what is not on the hub.
            FileNotFoundError, ModelFileError: no such model, or a damaged one; says which file and what to do.
        """
        place = device_for(device)
        kind = dtype_for(dtype, place)
        look_up("attention backend", attention, dict.fromkeys(BACKENDS))
        look_up("engine", engine, dict.fromkeys(ENGINES))
        look_up("offload", offload, dict.fromkeys(OFFLOADS))
        stored = None if vae is None else read_autoencoder(find_autoencoder(str(vae)))
        parts = load_folder(find_model(str(model), revision, variant), kind, variant, stored)
        engine = engine_name_for(engine, AUTO, offload := offload_for(offload, place))
        parts = parts if mmap else parts.in_memory()
        opened = cls(parts, str(model), place, attention, engine_for(engine, place), offload)
        opened.vae_source = None if vae is None else str(vae)
        return opened

    @classmethod
    def open(cls, name: str, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None) -> Self:
        """Open a model, whether its name is that of a single file or of anything else.

        Args:
            name: as of `from_pretrained`, or a file as of `from_single_file`.
            dtype: of the networks.
            device: where they run.

        Raises:
            ValueError, FileNotFoundError, ModelFileError: as those two.
        """
        return (cls.from_single_file if Path(name).is_file() else cls.from_pretrained)(name, dtype, device)

    @classmethod
    @explain_keywords
    def from_single_file(
        cls,
        path: str | Path,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        prediction_type: str | None = None,
        zero_terminal_snr: bool | None = None,
        family: str | None = None,
        ema: bool = False,
        attention: str = DEFAULT,
        vae: str | Path | None = None,
        mmap: bool = True,
        engine: str = AUTO,
        offload: str = NONE,
    ) -> Self:
        """Open a single-file checkpoint, offline; see `ldm.io.single_file.load.load_single_file` and `from_pretrained`.

        Args:
            path: of the file.
            dtype: of the networks; fp32 by default, and fp16 on a CUDA device.
            device: where the networks run; by default the best there is.
            prediction_type: `epsilon` or `v_prediction`, where the file does not say or says it wrong; recipes of the
                pictures record it.
            zero_terminal_snr: whether the noise has zero terminal SNR, likewise.
            family: a key of `FAMILIES`, likewise.
            ema: take the moving average of the U-Net, if the file has one.
            attention: the backend of the denoising network.
            vae: as in `from_pretrained`.
            mmap: False copies all weights into memory, see `from_pretrained`.
            engine: what runs the denoising network, likewise.
            offload: how much of the model is on a GPU at once, likewise.
        """
        from ldm.io.single_file.load import load_single_file

        look_up("attention backend", attention, dict.fromkeys(BACKENDS))
        look_up("engine", engine, dict.fromkeys(ENGINES))
        look_up("offload", offload, dict.fromkeys(OFFLOADS))
        place = device_for(device)
        parts = load_single_file(
            Path(path),
            dtype=dtype_for(dtype, place),
            prediction_type=prediction_type,
            zero_terminal_snr=zero_terminal_snr,
            family=family,
            ema=ema,
            vae=None if vae is None else read_autoencoder(find_autoencoder(str(vae))),
        )
        engine = engine_name_for(engine, AUTO, offload := offload_for(offload, place))
        parts = parts if mmap else parts.in_memory()
        model = cls(parts, str(path), place, attention, engine_for(engine, place), offload)
        model.vae_source = None if vae is None else str(vae)
        given = {"prediction_type": prediction_type, "zero_terminal_snr": zero_terminal_snr, "family": family}
        model.load_options = {name: value for name, value in {**given, "ema": ema or None}.items() if value is not None}
        return model

    @classmethod
    def from_diffusers(
        cls, pipeline: Any, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Take over a diffusers pipeline (Stable Diffusion 1, 2 or XL) with the weights that it has now.

        Args:
            pipeline: which stays as it is.
            dtype: of the networks; by default that of its U-Net.
            device: where they run; by default where the pipeline is.

        Raises:
            ValueError, ModelFileError: as `ldm.io.folder.from_pipeline.load_pipeline`.
        """
        from ldm.io.folder.from_pipeline import load_pipeline

        place = device_for(pipeline.device if device is None else device)
        parts = load_pipeline(pipeline, dtype_for(dtype or pipeline.unet.dtype, place))
        return cls(
            parts,
            pipeline.config.get("_name_or_path") or type(pipeline).__name__,
            place,
            engine=engine_for(AUTO, place),
        )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, overwrite: bool = False) -> None:
        """Write the model folder, atomically; diffusers' pipeline of such a model opens it too. See `save_folder`.

        Args:
            folder: of the model.
            dtype: of the weights in the files; None keeps what they are in.
            overwrite: replace the files of a model that is there; other files stay.

        Raises:
            FileExistsError: the folder is not empty, and `overwrite` is not set.
        """
        if not overwrite and Path(folder).is_dir() and any(Path(folder).iterdir()):
            raise FileExistsError(f"{folder} is not empty; give another folder, or overwrite=True to replace the model")
        save_folder(self.parts, Path(folder), dtype)

    def unload(self) -> None:
        """Free the memory of weights, adapters and everything kept for the next picture; the model is of no use then.

        A drawing that has begun keeps what it needs until it ends. A model in a `with` statement is unloaded at the end
        of the block.
        """
        self.engine.weights_changed()
        self.__dict__.pop("loras", None)
        self._offload = Offload(NONE, self.device, {})
        self._parts, self.preview_autoencoder = None, None
        self._begin_without_adapters()
        release_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.unload()

    def load_preview(self, path: str | Path) -> None:
        """Let `preview` of each step be decoded by a TAESD, in full size, before any upscaler.

        Args:
            path: file, folder or hub id of a TAESD made for this kind of model.

        Raises:
            ValueError: it is no TAESD.
            FileNotFoundError, ModelFileError: it is missing, damaged, or for other latents.
        """
        stored = read_autoencoder(find_autoencoder(str(path)))
        stored.format_for(self.parts.latent_format)
        network = stored.load(torch.float32)
        if not isinstance(network, TinyAutoencoder):
            raise ValueError(f"{path} is a large autoencoder, too slow for previews; name a TAESD, or give it as vae=")
        self.preview_autoencoder = network.to(self.device)
