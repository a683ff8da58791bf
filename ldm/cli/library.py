"""`ldm models list`, `ldm loras list`, ...: what there is by name; `ldm config`: where else names are looked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(help="Where models and adapters are found by name.")
_HEADERS = ("ss_base_model_version", "modelspec.architecture")


@config_app.command("set", epilog="Example: ldm config set models_dir /data/ComfyUI/models")
def set_value(
    name: Annotated[str, typer.Argument(help="models_dir")],
    folders: Annotated[
        list[str] | None, typer.Argument(help="Folders of A1111, ComfyUI or your own; none takes the setting away.")
    ] = None,
) -> None:
    """Keep a setting in the user's file of settings."""
    from ldm.io.library import set_setting

    print(set_setting(name, folders or []))


@config_app.command(epilog="Example: ldm config show")
def show() -> None:
    """Print the settings and the folders that they mean."""
    from ldm.io.library import home, settings, settings_file

    file = settings_file()
    print(f"settings    {file}{'' if file.is_file() else ' (not there)'}")
    print(f"LDM_HOME    {home()}{'' if home().is_dir() else ' (not there)'}")
    for name, folders in settings().items():
        print(f"{name}  {', '.join(folders)}")


def listing(what: str) -> typer.Typer:
    """The commands of one kind of things that have names.

    Args:
        what: models, loras, embeddings, samplers or schedules.
    """
    group = typer.Typer(help=f"Find {what} by name.")

    @group.callback()
    def _group() -> None:
        """Keeps `list` a subcommand while it is the only one."""

    @group.command("list", help=f"Print the {what} that there are.", epilog=f"Example: ldm {what} list")
    def print_all() -> None:
        rows = list(_rows(what))
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        for name, about, where in rows:
            print(f"{name:{widths[0]}}  {about:{widths[1]}}  {where}".rstrip())

    return group


def _rows(what: str) -> Iterator[tuple[str, str, str]]:
    """Name, what it is where that is cheap to know, and where it is."""
    if what == "samplers":
        from ldm.samplers.table import SAMPLER_TABLE

        yield from ((name, info.label, info.advice) for name, info in SAMPLER_TABLE.items() if not info.inverts)
    elif what == "schedules":
        from ldm.generation.sampler_names import SCHEDULE_LABELS

        yield from ((name, label, "") for name, label in SCHEDULE_LABELS.items())
    else:
        from ldm.io.library import entries
        from ldm.io.shipped import shipped_models, shipped_restorers

        if what == "models":
            yield from ((name, "shipped", str(path)) for name, path in shipped_models().items())
            yield from (
                (name, "shipped, for denoise and restore", str(path)) for name, path in shipped_restorers().items()
            )
        yield from ((name, _about(path), str(path)) for name, path in entries(what))


def _about(path: Path) -> str:
    """The family that a header or an index names; empty where neither does."""
    from ldm.io.disk.files import ModelFileError, read_json
    from ldm.io.tensors.tensor_file import open_tensors

    try:
        if path.is_dir():
            index = path / "model_index.json"
            return str(read_json(index).get("_class_name", "")) if index.is_file() else ""
        if path.suffix != ".safetensors":
            return ""
        metadata = open_tensors(path).metadata
    except ModelFileError as error:
        return f"damaged: {error}"
    return next((metadata[name] for name in _HEADERS if metadata.get(name)), "")
