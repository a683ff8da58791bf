"""A model from a diffusers pipeline in memory."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ldm.families.parts import ModelParts
from ldm.io.folder.load import load_folder
from ldm.io.folder.pipelines import KNOWN, OURS
from ldm.io.folder.text_encoder import PLACES, tokenizer_of

_PARTS = ("unet", "vae", "scheduler", "low_res_scheduler", *PLACES, *map(tokenizer_of, PLACES))


def load_pipeline(pipeline: Any, dtype: torch.dtype) -> ModelParts:
    """The parts of a diffusers pipeline, as `load_folder` reads what it saves.

    The weights go once through a temporary folder, from which they are mapped: no name and no field is read otherwise
    than from a folder. Safety checkers and the like stay behind.

    Args:
        pipeline: a `StableDiffusionPipeline`, `StableDiffusionXLPipeline` or another one whose folder opens here.
        dtype: of the networks, see `load_folder`.

    Raises:
        ValueError: another pipeline, or one with LoRAs that are not fused.
        ModelFileError: a part that is not supported; names it.
    """
    name = type(pipeline).__name__
    if name not in KNOWN or name == OURS:
        raise ValueError(f"{name} does not open here; only {', '.join(each for each in KNOWN if each != OURS)} do")
    for part in ("unet", *PLACES):
        if getattr(getattr(pipeline, part, None), "peft_config", None):
            raise ValueError(f"{part} has LoRAs; fuse them and call unload_lora_weights(), or load them with load_lora")
    with TemporaryDirectory(prefix="ldm-", ignore_cleanup_errors=True) as folder:
        pipeline.save_config(folder)
        for part in _PARTS:
            if getattr(pipeline, part, None) is not None:
                getattr(pipeline, part).save_pretrained(Path(folder, part))
        return load_folder(Path(folder), dtype)
