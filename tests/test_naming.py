"""What is no name at all is refused as an unknown one is."""

import pytest

from ldm import LatentDiffusion
from ldm.naming import look_up


@pytest.mark.parametrize("name", [0.15, None, ["euler"], {"euler": 1}, b"euler"])
def test_what_is_no_name_is_unknown(name: object) -> None:
    with pytest.raises(ValueError, match=r"unknown sampler .*; (did you mean 'euler'|known: ddim, euler)"):
        look_up("sampler", name, {"euler": 1, "ddim": 2})  # type: ignore[arg-type]


def test_a_word_of_a_task_may_be_anything(tiny_folder) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match=r"unknown enlarge 3; known: latent, picture"):
        model.hires("x", enlarge=3)  # type: ignore[arg-type]
