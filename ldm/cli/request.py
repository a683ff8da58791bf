"""`ldm request --schema`: the settings of a picture, for programs that make requests."""

import json
from typing import Annotated

import typer


def request(
    schema: Annotated[bool, typer.Option("--schema", help="Print names, types, help, defaults and ranges.")] = False,
) -> None:
    """Show what a request may say, as JSON schema."""
    from ldm.generation.request import request_schema

    if not schema:
        raise ValueError("nothing to show; use ldm request --schema")
    print(json.dumps(request_schema(), indent=2, ensure_ascii=False))
