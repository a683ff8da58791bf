"""Fields of foreign `config.json` files: whatever we cannot run exactly is refused by name, never ignored."""

from collections.abc import Mapping
from typing import Any

from ldm.io.disk.files import ModelFileError

DIFFUSERS_VERSION = "0.36.0"
"""Of the fields that we write; newer versions only add fields with defaults."""


def check_fields(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    where: str,
    remarks: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The translated fields with defaults filled in, after checking that every other field says what we do anyway.

    Raises ModelFileError naming the field, its value and `where` (a file) for unknown fields and unsupported values.
    """
    for name, value in fields.items():
        if name.startswith("_") or name in defaults or name in remarks:
            continue
        if name not in fixed:
            raise ModelFileError(
                f"{where}: {name}={value!r} is unknown to this version, which cannot tell what it means"
            )
        if value not in fixed[name]:
            known = " or ".join(repr(known) for known in fixed[name])
            raise ModelFileError(f"{where}: {name}={value!r} is not supported; only {known} is")
    return {**defaults, **{name: fields[name] for name in defaults if name in fields}}
