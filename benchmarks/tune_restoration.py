"""Looks for the best settings of the classical filters and writes them into ldm/evaluation/restoration/settings.py.

    python benchmarks/tune_restoration.py [DATA] [PICTURES]

The pictures are training pictures of DATA (runs/data/emoji), never the held-out ones that `ldm eval restore` reads.
"""

import pprint
import sys
from pathlib import Path

from torch import Tensor

import ldm.evaluation.restoration
from ldm.data.sources.open_source import TRAIN
from ldm.evaluation.restoration.methods import METHODS
from ldm.evaluation.restoration.pictures import read_pictures
from ldm.evaluation.restoration.tuning import best_settings


def _quarter(picture: Tensor, number: int) -> Tensor:
    """A quarter of a picture (3, 2H, 2W), each of the four in turn: ground and object, in a quarter of the time."""
    height, width = (edge // 2 for edge in picture.shape[1:])
    top, left = height * (number // 2 % 2), width * (number % 2)
    return picture[:, top : top + height, left : left + width]


def main(data: str = "runs/data/emoji", count: str = "6") -> None:
    """Search and write."""
    pictures, fingerprint = read_pictures(data, TRAIN, int(count), seed=0)
    quarters = [_quarter(picture, number) for number, picture in enumerate(pictures)]
    found = best_settings(METHODS, quarters)
    target = Path(ldm.evaluation.restoration.__file__).with_name("settings.py")
    target.write_text(
        '"""Best settings of the classical filters, as benchmarks/tune_restoration.py found them."""\n\n'
        "from ldm.evaluation.restoration.methods import Value\n\n"
        f'TUNED_ON = "a quarter of each of {len(pictures)} training pictures of {Path(data).name} ({fingerprint})"\n'
        f"BEST: dict[str, dict[str, dict[str, Value]]] = {pprint.pformat(found, width=110, sort_dicts=False)}\n",
        encoding="utf-8",
    )
    print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
