"""`few_steps/` of a model folder, ours alone: a LoRA that lets the model draw in few steps, and how it is used."""

import shutil
from pathlib import Path

from ldm.families.parts import FewSteps
from ldm.io.disk.files import ModelFileError, read_json, write_json
from ldm.io.folder.field_types import FEW_STEPS_TYPES, check_types
from ldm.samplers.table import SAMPLER_TABLE
from ldm.schedules import SCHEDULES

FOLDER = "few_steps"
_LORA, _SETTINGS = "lora.safetensors", "settings.json"


def load_few_steps(path: Path) -> FewSteps | None:
    """What a model folder has of it; None for the folders that have none. The LoRA itself is read when it is used.

    Args:
        path: of the model folder.

    Raises:
        ModelFileError: names the file, the field and its value.
    """
    folder = path / FOLDER
    if not folder.is_dir():
        return None
    file = folder / _SETTINGS
    content = read_json(file)
    for name in content:
        if name not in FEW_STEPS_TYPES:
            raise ModelFileError(f"{file}: {name} is unknown to this version; known: {', '.join(FEW_STEPS_TYPES)}")
    check_types(content, FEW_STEPS_TYPES, str(file))
    for name, known in (("sampler", set(SAMPLER_TABLE)), ("schedule", set(SCHEDULES))):
        if content.get(name) not in {None, *known}:
            raise ModelFileError(f"{file}: {name}={content[name]!r} is unknown to this version; use another one")
    if not (folder / _LORA).is_file():
        raise ModelFileError(f"{folder / _LORA} is missing; copy the whole model again, or delete {folder}")
    return FewSteps(folder / _LORA, **content)


def save_few_steps(few_steps: FewSteps, path: Path) -> None:
    """Write it into a model folder that is being made.

    Args:
        few_steps: whose file is copied.
        path: of the model folder.
    """
    folder = path / FOLDER
    folder.mkdir()
    shutil.copyfile(few_steps.lora, folder / _LORA)
    write_json(folder / _SETTINGS, {name: getattr(few_steps, name) for name in FEW_STEPS_TYPES})
