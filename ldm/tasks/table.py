"""The table of tasks: their names in recipes and commands, and how a task is made again from its settings."""

from collections.abc import Mapping
from typing import Any

from ldm.generation.task import Task
from ldm.naming import look_up
from ldm.tasks.base import PictureTask
from ldm.tasks.edit_by_words import EditByWords
from ldm.tasks.hires import Hires
from ldm.tasks.img2img import Img2Img
from ldm.tasks.inpaint import Inpaint
from ldm.tasks.instruct import Instruct
from ldm.tasks.outpaint import Outpaint
from ldm.tasks.reconstruct import Reconstruct
from ldm.tasks.upscale import Upscale

TASKS: dict[str, type[PictureTask] | type[Hires]] = {
    task.name: task for task in (Hires, Img2Img, EditByWords, Instruct, Inpaint, Outpaint, Reconstruct, Upscale)
}
"""Name -> the class of the task."""


def task_from(settings: Mapping[str, Any]) -> Task:
    """The task that `Task.settings` describes.

    Args:
        settings: `name`, and what that task has settings of.

    Raises:
        ValueError: an unknown name or setting.
        OSError: its picture is not there, or is another one by now.
    """
    task = look_up("task", settings.get("name", ""), TASKS)
    return task.from_settings({name: value for name, value in settings.items() if name != "name"})
