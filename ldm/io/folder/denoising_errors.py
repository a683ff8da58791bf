"""`denoising_errors.json` of a model folder, ours alone: how far its denoiser is from the truth at each level."""

from pathlib import Path

from ldm.families.denoising_error import DenoisingError
from ldm.io.disk.files import ModelFileError, read_json, write_json
from ldm.io.folder.field_types import DENOISING_ERRORS_TYPES, check_types

FILE = "denoising_errors.json"


def load_errors(path: Path) -> DenoisingError | None:
    """The table of a model folder; None for the folders that have none.

    Args:
        path: of the model folder.

    Raises:
        ModelFileError: names the file, the field and its value.
    """
    file = path / FILE
    if not file.exists():
        return None
    content = read_json(file)
    for name in content:
        if name not in DENOISING_ERRORS_TYPES:
            raise ModelFileError(
                f"{file}: {name} is unknown to this version; known: {', '.join(DENOISING_ERRORS_TYPES)}"
            )
    check_types(content, DENOISING_ERRORS_TYPES, str(file))
    errors = content.get("errors", ())
    if len(errors) < 2:
        raise ModelFileError(f"{file}: errors has {len(errors)} rows; run ldm model calibrate again, or delete it")
    return DenoisingError(tuple(map(float, errors)), content.get("pictures", 0))


def save_errors(errors: DenoisingError, path: Path) -> None:
    """Write it into a model folder.

    Args:
        errors: the table.
        path: of the model folder.
    """
    rounded = [float(f"{error:.4g}") for error in errors.errors]
    write_json(path / FILE, {"pictures": errors.pictures, "errors": rounded})
