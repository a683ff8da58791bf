"""Puts what `ldm eval restore` measured into docs/restoration.md, its picture, and README.md.

    ldm eval restore --data runs/data/emoji -n 200 -o outputs/restore
    python docs/restoration_page.py outputs/restore/scores.json

What stands between two marks, `<!-- scores: NAME -->` and `<!-- /scores -->`, is replaced. Needs `ldm[bench]`.
"""

import json
import re
import sys
from pathlib import Path

from ldm.evaluation.restoration.bench import RestorationScores
from ldm.evaluation.restoration.plot import NEEDS, can_plot, write_plot
from ldm.evaluation.restoration.summary import summaries, summary_markdown

ROOT = Path(__file__).parents[1]
PAGE, README, PLOT = (
    ROOT / "docs" / "restoration.md",
    ROOT / "README.md",
    ROOT / "docs" / "pictures" / "restoration.png",
)
OF_EACH_KIND = ("gaussian 25", "salt and pepper 20 %", "blur 2, noise 5", "jpeg 30", "x4")
"""The damages that README.md shows."""
_PACKAGES = {"torch": "torch", "scikit-image": "scikit-image", "opencv-python-headless": "OpenCV"}


def source(scores: RestorationScores) -> str:
    """Where the numbers are from, as a sentence."""
    about, versions = scores.about, scores.about["versions"]
    packages = ", ".join(
        f"{label} {versions[name]}" if versions.get(name) else f"no {label}" for name, label in _PACKAGES.items()
    )
    threads = "one thread" if about["threads"] == 1 else f"{about['threads']} threads"
    missing = ", ".join(reason.partition(":")[0] for reason in scores.left_out)
    return (
        f"{scores.source} (`ldm eval restore -n {scores.pictures}`, seed {about['seed']}); "
        f"{about['processor']}, {threads}; {packages}.{f' Left out: {missing}.' if missing else ''} "
        f"Settings of the filters: {about['tuned_on']}.\n"
    )


def replaced(text: str, name: str, block: str, page: str) -> str:
    """A page with another block between its marks of this name.

    Raises:
        ValueError: it has no such marks.
    """
    pattern = rf"(<!-- scores: {name} -->\n).*?(<!-- /scores -->)"
    if not re.search(pattern, text, re.S):
        raise ValueError(f"{page} has no place <!-- scores: {name} --> ... <!-- /scores -->")
    return re.sub(pattern, lambda found: f"{found[1]}\n{block}\n{found[2]}", text, count=1, flags=re.S)


def write(scores: RestorationScores, page: Path = PAGE, readme: Path = README, picture: Path = PLOT) -> None:
    """Renew both pages and the plot.

    Args:
        scores: read from `scores.json`.
        page: with the blocks `source`, `summary` and `all`.
        readme: with the block `summary`.
        picture: the plot's PNG.
    """
    found = summaries(scores.rows)
    blocks = {"source": source(scores), "summary": summary_markdown(found), "all": scores.to_markdown()}
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = replaced(text, name, block, page.name)
    short = replaced(readme.read_text(encoding="utf-8"), "summary", summary_markdown(found, OF_EACH_KIND), readme.name)
    write_plot(picture, found, scores.source)
    page.write_text(text, encoding="utf-8")
    readme.write_text(short, encoding="utf-8")


if __name__ == "__main__":
    if not can_plot():
        sys.exit(NEEDS)
    write(RestorationScores.from_dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
