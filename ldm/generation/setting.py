"""How a field of a record of settings is described, checked and written as JSON schema."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, replace
from math import isnan
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from conditioning.prompt.syntax import MAX_LENGTH
from ldm.naming import look_up, shown

_JSON_TYPES = {
    str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null", tuple: "array", Mapping: "object"
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The description of a field of `Request` or of a task, besides its type and default.

    Attributes:
        help: one sentence for the command line and the schema.
        flag: its option of `ldm generate`; by default `--` and its name.
        short: another spelling of the option beside it.
        group: under which the command line's help lists it.
        otherwise: what None stands for, in a few words.
        least, most: the range of a number.
        choices: all that a word may be.
        read: turns the entries of an option that may be repeated into the field's mapping.
        merged: entries join those of the picture that is repeated, in place of replacing them.
        file: whether it is a picture, of which the command line has the file.
    """

    help: str
    flag: str = ""
    short: str = ""
    group: str = ""
    otherwise: str = ""
    least: float | None = None
    most: float | None = None
    choices: Sequence[str] = ()
    read: Callable[[str, Sequence[str]], Mapping[str, Any]] | None = None
    merged: bool = False
    file: bool = False


def setting_of(each: "Field[Any]") -> Setting:
    """The `Setting` of a field, with its flag filled in."""
    setting: Setting = each.metadata["setting"]
    return setting if setting.flag else replace(setting, flag=f"--{each.name.replace('_', '-')}")


def described(default: Any, help: str, **more: Any) -> Any:
    """A field of a dataclass with a `Setting`; `dict` as default is an empty one.

    Args:
        default: of the field.
        help: of the setting.
        more: its other attributes.
    """
    metadata = {"setting": Setting(help, **more)}
    return (
        field(default_factory=dict, metadata=metadata) if default is dict else field(default=default, metadata=metadata)
    )


def in_range(setting: Setting, value: Any) -> bool:
    """Whether a number is within the setting's range; NaN is in none, and what is no number in all."""
    if setting.least is None or setting.most is None or isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return setting.least <= value <= setting.most


def check_setting(each: "Field[Any]", value: Any, options: bool = False) -> None:
    """Refuse a value that its field's `Setting` does not allow.

    Args:
        each: the field.
        value: of it.
        options: name the field as an option of the command line, not as a keyword of Python.

    Raises:
        ValueError: names the field, its value and what it may be.
    """
    setting = setting_of(each)
    spelled = setting.flag if options else each.name
    if not in_range(setting, value):
        name = f"{spelled} {shown(value)}" if options else f"{spelled}={shown(value)}"
        raise ValueError(f"{name} is not possible; use {setting.least:,} to {setting.most:,}")
    if setting.choices and value is not None:
        look_up(spelled, value, dict.fromkeys(setting.choices))
    _check_texts("PROMPT" if each.name == "prompt" and options else spelled, value)


def _check_texts(name: str, value: Any) -> None:
    """Refuse texts of a field, or within it, that are too long for a prompt or no Unicode, and NaN."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_texts(name, key)
            _check_texts(f"{name} {shown(key)[1:-1]}", each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_texts(name, each)
    elif isinstance(value, str):
        if len(value) > MAX_LENGTH:
            raise ValueError(f"{name} has {len(value):,} characters; use at most {MAX_LENGTH:,}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{name} is not valid UTF-8; check the terminal's encoding")
    elif isinstance(value, float) and isnan(value):
        raise ValueError(f"{name}={value} is no number; give one")


def json_types(annotation: Any) -> list[str]:
    """JSON schema's names of a field's types: `int | None` -> ["integer", "null"]."""
    if isinstance(annotation, UnionType):
        return [name for part in get_args(annotation) for name in json_types(part)]
    origin = get_origin(annotation) or annotation
    return [_JSON_TYPES.get(origin) or next(name for kind, name in _JSON_TYPES.items() if kind in origin.__mro__)]


def is_json(value: Any, kind: str) -> bool:
    """Whether a value that JSON gave is of a type by its name; of lists, those of texts alone."""
    if isinstance(value, bool) or value is None:
        return kind == {True: "boolean", False: "boolean", None: "null"}[value]
    if isinstance(value, list):
        return kind == "array" and all(isinstance(each, str) for each in value)
    kinds = {"string": str, "integer": int, "number": int | float, "object": dict}
    return kind in kinds and isinstance(value, kinds[kind])


def property_of(each: "Field[Any]") -> dict[str, Any]:
    """JSON schema's description of a field with a `Setting`."""
    setting, types = setting_of(each), json_types(each.type)
    content: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    if "array" in types:
        content["items"] = {"type": "string"}
    content["description"] = f"{setting.help} [default: {setting.otherwise}]" if setting.otherwise else setting.help
    content["default"] = {} if each.default is MISSING else each.default
    choices = [*setting.choices, *([None] if setting.choices and "null" in types else [])]
    limits = {"minimum": setting.least, "maximum": setting.most, "enum": choices or None}
    return content | {name: limit for name, limit in limits.items() if limit is not None}
