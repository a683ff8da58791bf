"""The data card: what is in a data set, where it is from and under which licences."""

from pathlib import Path
from typing import Any

from ldm.io.disk.files import write_file


def write_card(path: Path, manifest: dict[str, Any]) -> None:
    """Write the card of a built data set as Markdown, from the manifest that the recipe made."""
    lines = [f"# Data card: {manifest['recipe']}", ""]
    if manifest.get("about"):
        lines += [manifest["about"], ""]
    lines += [f"Pictures of {manifest['size']} x {manifest['size']} px, seed {manifest['seed']}.", ""]
    splits = list(manifest["counts"])
    lines += [f"| | {' | '.join(splits)} |", "|---|" + "---:|" * len(splits)]
    for key in sorted({key for tally in manifest["counts"].values() for key in tally}):
        numbers = " | ".join(f"{manifest['counts'][split].get(key, 0):,}" for split in splits)
        lines.append(f"| {key} | {numbers} |")
    if manifest.get("styles"):
        lines += ["", "| style | words in captions | author | licence | package |", "|---|---|---|---|---|"]
        for style in manifest["styles"]:
            package = f"{style['package']['name']}@{style['package']['version']}"
            words = f"{style['phrase']}; {style['picture']}"
            lines.append(f"| {style['key']} | {words} | {style['author']} | {style['licence']} | {package} |")
    lines += ["", *(f"- {note}" for note in manifest.get("notes", ()))]
    write_file(path, ("\n".join(lines).rstrip() + "\n").encode())
