"""The configs that come with the package, found by name. Light to import."""

from pathlib import Path

from ldm.io.disk.installed import installed_folder
from ldm.naming import nearest

FORMER_CONFIGS = {"upscaler": "restorer took its place, which enlarges too: ldm train restorer"}
"""Names of former versions, and what is said where nothing here is called that."""


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name: `own_pictures`, `emoji/ldm`, ..., without accelerate's own."""
    root = installed_folder("configs", "ldm/configs")
    found = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
    return {name: path for name, path in found.items() if not name.startswith("accelerate/")}


def find_config(name: str | Path) -> Path:
    """A config by path, or by the name of one that comes with the package.

    Raises:
        FileNotFoundError: there is neither; offers the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    plain = Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml")
    if plain in shipped:
        return shipped[plain]
    hint = FORMER_CONFIGS.get(plain) or nearest(plain, shipped)
    raise FileNotFoundError(f"config {name} does not exist, nor a recipe of that name; {hint}")
