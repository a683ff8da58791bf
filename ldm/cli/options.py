"""Options of a command from the fields of `Request` and of tasks: each field gives its own."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer

from ldm.generation.request import Request, setting_of

WITHOUT_OPTION = ("conditions", "task")
"""Fields that are too much for a command line, or that a command of their own fills."""
FIELDS = [each for each in fields(Request) if each.name not in WITHOUT_OPTION]


def with_request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every field of `Request`, and PROMPT as arguments.

    Its first parameter receives what was given, by field; the others are options of its own.
    """
    own = list(inspect.signature(command).parameters.values())[1:]

    def run(**values: Any) -> None:
        given = _given(FIELDS, values)
        command(given, **values)

    prompt, *options = [_parameter(each) for each in FIELDS]
    return _as(command, run, [prompt, *own, *options])


def with_task_options(task: type, without: Sequence[str] = ()) -> Callable[..., Callable[..., None]]:
    """Give a command an option for every setting of a task besides those of `Request`, and IMAGE before PROMPT.

    Its first parameters receive what was given of the request and of the task, by field, and its third is IMAGE; the
    others are options of its own. Pictures are given as their paths.

    Args:
        task: a record of `ldm.tasks.settings`.
        without: fields of `Request` that the task decides itself.
    """
    settings = fields(task)
    known = [each for each in FIELDS if each.name not in without]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        image, *own = list(inspect.signature(command).parameters.values())[2:]

        def run(**values: Any) -> None:
            given = _given(known, values)
            command(given, _given(settings, values), **values)

        prompt, *options = [_parameter(each) for each in known]
        return _as(command, run, [image, prompt, *own, *map(_parameter, settings), *options])

    return with_options


def _given(known: "Sequence[Field[Any]]", values: dict[str, Any]) -> dict[str, Any]:
    """What was given of some fields; it is taken out of the values."""
    read = {each.name: _read(each, values.pop(each.name)) for each in known}
    return {name: value for name, value in read.items() if value is not None}


def _as(
    command: Callable[..., None], run: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """What runs in place of a command, with its name and help."""
    functools.update_wrapper(run, command)
    setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010, what typer reads
    return run


def _parameter(each: "Field[Any]") -> inspect.Parameter:
    setting = setting_of(each)
    kinds = [kind for kind in get_args(each.type) or (each.type,) if kind is not NoneType]
    kind: Any = list[str] if setting.read else Path if setting.file else kinds[0]
    flag = f"{setting.flag}/{setting.flag.replace('--', '--no-', 1)}" if kind is bool else setting.flag
    names = [name for name in (flag, setting.short) if name]
    info = typer.Option(*names, help=f"{setting.help}{_default(each)}", rich_help_panel=setting.group)
    if each.name == "prompt":
        kind, info = list[str], typer.Argument(metavar="PROMPT...", help=setting.help, show_default=False)
    annotation = Annotated[kind | None, info]
    return inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)


def _default(each: "Field[Any]") -> str:
    """The end of an option's help text: its default, or that it may be repeated."""
    setting = setting_of(each)
    if setting.read:
        return "; may be repeated."
    default = setting.otherwise or (each.default if each.default is not MISSING else "")
    return f" [default: {default}]" if default and default is not True else ""


def _read(each: "Field[Any]", value: Any) -> Any:
    """The field's value of an option's; None where it was not given."""
    setting = setting_of(each)
    if value is None or value == []:
        return None
    if each.name == "prompt":
        return value[0] if len(value) == 1 else tuple(value)
    return setting.read(setting.flag, value) if setting.read else value
