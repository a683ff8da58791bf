"""Options of a command from the fields of `Request` and of tasks: each field gives its own."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

import typer

from ldm.generation.request import Request
from ldm.generation.setting import setting_of
from ldm.naming import nearest

OutputOption = Annotated[
    str | None, typer.Option("--output", "-o", help="A folder, or a .png file. [default: outputs]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
"""What every command that makes pictures has."""
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
    ungrouped, grouped = ([each for each in own if _has_group(each) is grouped] for grouped in (False, True))
    parameters = [prompt, *ungrouped, *options, *grouped]  # the help has its groups in the order of the first of each
    return _as(command, run, parameters)


def with_task_options(
    task: type, call: Callable[..., Any], without: Sequence[str] = ()
) -> Callable[..., Callable[..., None]]:
    """Give a command an option for every setting of a task besides those of `Request`, and IMAGE before PROMPT.

    The command receives what was given of the request and of the task, by field, and a record of the rest. Pictures
    are given as their paths.

    Args:
        task: a record of `ldm.tasks.settings`.
        call: the record of the rest, whose first field is IMAGE and whose others are options.
        without: fields of `Request` that the task decides itself.
    """
    settings = fields(task)
    known = [each for each in FIELDS if each.name not in without]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        image, *own = inspect.signature(call).parameters.values()

        def run(**values: Any) -> None:
            given = _given(known, values)
            command(given, _given(settings, values), call(**values))

        prompt, *options = [_parameter(each) for each in known]
        return _as(command, run, [image, prompt, *own, *map(_parameter, settings), *options])

    return with_options


def with_call(call: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a record besides its own; its last parameter receives the record.

    Args:
        call: a record whose first field is IMAGE, which comes first, and whose others are options.
    """

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        image, *shared = inspect.signature(call).parameters.values()
        *own, record = inspect.signature(command).parameters.values()

        def run(**values: Any) -> None:
            given = {each.name: values.pop(each.name) for each in own}
            command(**given, **{record.name: call(**values)})

        return _as(command, run, [image, *own, *shared])

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


def _has_group(parameter: inspect.Parameter) -> bool:
    return any(getattr(each, "rich_help_panel", None) for each in get_args(parameter.annotation)[1:])


def _parameter(each: "Field[Any]") -> inspect.Parameter:
    setting = setting_of(each)
    kinds = [kind for kind in get_args(each.type) or (each.type,) if kind is not NoneType]
    kind: Any = list[str] if setting.read else Path if setting.file else kinds[0]
    flag = f"{setting.flag}/{setting.flag.replace('--', '--no-', 1)}" if kind is bool else setting.flag
    names = [name for name in (flag, setting.short) if name]
    info = typer.Option(*names, help=help_of(each), rich_help_panel=setting.group)
    if each.name == "prompt":
        kind, info = list[str], typer.Argument(metavar="PROMPT...", help=setting.help, show_default=False)
    annotation = Annotated[kind | None, info]
    return inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)


def help_of(each: "Field[Any]") -> str:
    """An option's help text, which ends in its default, or in that it may be repeated."""
    setting = setting_of(each)
    if setting.read:
        return f"{setting.help}; may be repeated."
    default = setting.otherwise or (each.default if each.default is not MISSING else "")
    return f"{setting.help} [default: {default}]" if default and default is not True else setting.help


def _read(each: "Field[Any]", value: Any) -> Any:
    """The field's value of an option's; None where it was not given."""
    setting = setting_of(each)
    if value is None or value == []:
        return None
    if each.name == "prompt":
        return value[0] if len(value) == 1 else tuple(value)
    return setting.read(setting.flag, value) if setting.read else value


ALIASES = {
    "samplername": "sampler",
    "scheduletype": "schedule",
    "scheduler": "schedule",
    "subseed": "variation_seed",
    "varseed": "variation_seed",
    "subseedstrength": "variation_strength",
    "varstrength": "variation_strength",
    "niter": "num_images_per_prompt",
    "sdmodel": "model",
    "checkpoint": "model",
    "checkpointname": "model",
    "negative": "negative_prompt",
}
"""Words of A1111 for fields, as `field_named` reads them."""


def field_named(name: str) -> "Field[Any]":
    """The field that a name means: its own, its option's, or A1111's; `-`, `_`, spaces and capitals do not matter.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known: dict[str, Field[Any]] = {}
    for each in FIELDS:
        setting = setting_of(each)
        known |= {_plain(spelling): each for spelling in (each.name, setting.flag, setting.short) if spelling}
    known |= {alias: known[_plain(field)] for alias, field in ALIASES.items()}
    if _plain(name) not in known:
        raise ValueError(f"there is no option {name!r}; {nearest(name, [setting_of(e).flag[2:] for e in FIELDS])}")
    return known[_plain(name)]


def value_of(each: "Field[Any]", text: str, name: str) -> Any:
    """The value of a field in a text; for fields of entries, such as --lora, the mapping that one entry gives.

    Raises:
        ValueError: the text is no number where one belongs, or no true or false.
    """
    setting = setting_of(each)
    if setting.read:
        return setting.read(name, [text]) if text else {}
    kind = next(kind for kind in get_args(each.type) or (each.type,) if kind is not NoneType)
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError(f"{name} {text} is neither true nor false")
        return _TRUTH[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} {text} is no {'whole ' if kind is int else ''}number") from None


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
