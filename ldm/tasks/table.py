"""The table of tasks: their names in recipes and commands, and how a task is made again from its settings."""

from collections.abc import Callable, Mapping
from typing import Any

from ldm.generation.task import Task
from ldm.naming import look_up
from ldm.tasks.edit_by_words import EditByWords
from ldm.tasks.hires import Hires
from ldm.tasks.img2img import Img2Img
from ldm.tasks.inpaint import Inpaint
from ldm.tasks.instruct import Instruct
from ldm.tasks.outpaint import Outpaint
from ldm.tasks.upscale import Upscale

TASKS: dict[str, Callable[[Mapping[str, Any]], Task]] = {
    Hires.name: Hires.from_settings,
    Img2Img.name: Img2Img.from_settings,
    EditByWords.name: EditByWords.from_settings,
    Instruct.name: Instruct.from_settings,
    Inpaint.name: Inpaint.from_settings,
    Outpaint.name: Outpaint.from_settings,
    Upscale.name: Upscale.from_settings,
}
"""Name -> makes the task from its settings without `name`."""


def task_from(settings: Mapping[str, Any]) -> Task:
    """The task that `Task.settings` describes.

    Args:
        settings: `name`, and what that task has settings of.

    Raises:
        ValueError: an unknown name or setting.
        OSError: its picture is not there, or is another one by now.
    """
    return look_up("task", settings.get("name", ""), TASKS)({k: v for k, v in settings.items() if k != "name"})
