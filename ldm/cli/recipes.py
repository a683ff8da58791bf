"""`ldm recipes list|show|copy`: the configs of trainings that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

recipes_app = typer.Typer(no_args_is_help=True, help="Configs of trainings that come with ldm, to run, read or change.")


@recipes_app.command("list", epilog="Example: ldm recipes list")
def list_recipes() -> None:
    """Name all of them, with what each trains."""
    from ldm.training.stages.shipped_configs import shipped_configs

    shipped = shipped_configs()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        print(f"{name:{width}}  {first.lstrip('# ') if first.startswith('#') else ''}".rstrip())


@recipes_app.command(epilog="Example: ldm recipes show own_pictures")
def show(name: Annotated[str, typer.Argument(help="Of a recipe, e.g. own_pictures.")]) -> None:
    """Print one."""
    from ldm.training.stages.shipped_configs import find_config

    print(find_config(name).read_text(encoding="utf-8"), end="")


@recipes_app.command(epilog="Example: ldm recipes copy own_pictures")
def copy(
    name: Annotated[str, typer.Argument(help="Of a recipe, e.g. own_pictures.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new file. [default: NAME.yaml here]", show_default=False)
    ] = None,
) -> None:
    """Write one into a file of your own, to change it."""
    from ldm.io.disk.files import write_new_file
    from ldm.training.stages.shipped_configs import find_config

    source = find_config(name)
    target = output or Path(source.name)
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another file with --output")
    print(f"{write_new_file([target], source.read_bytes())}: change it, then ldm train {target}")
