"""Fields of foreign `config.json` files: whatever we cannot run exactly is refused by name, never ignored."""

from collections.abc import Mapping
from typing import Any

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.field_types import FieldType, check_types
from ldm.naming import shown

DIFFUSERS_VERSION = "0.36.0"
"""Of the fields that we write; newer versions only add fields with defaults."""


def check_fields(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    types: Mapping[str, FieldType],
    where: str,
    remarks: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The translated fields with defaults filled in, after checking that every other field says what we do anyway.

    Raises ModelFileError naming the field, its value and `where` (a file) for unknown fields, unsupported values and
    such as are not of the field's type.
    """
    check_types(fields, types, where)
    for name, value in fields.items():
        if name.startswith("_") or name in defaults or name in remarks:
            continue
        if name not in fixed:
            raise ModelFileError(
                f"{where}: {name}={shown(value)} is unknown to this version, which cannot tell what it means"
            )
        require_one_of(name, value, fixed[name], where)
    return {**defaults, **{name: fields[name] for name in defaults if name in fields}}


def require_one_of(name: str, value: Any, values: tuple[Any, ...], where: str) -> None:
    """Raise ModelFileError for a value that is not one of these; 0 is not False, and 1 is not True."""
    if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
        only = " or ".join(repr(known) for known in values)
        raise ModelFileError(f"{where}: {name}={shown(value)} is not supported; only {only} is")
