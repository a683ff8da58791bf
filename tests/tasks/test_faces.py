"""The methods and records of tasks mirror one another and the plain call."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from task_models import picture

from ldm import LatentDiffusion
from ldm.pipeline.pictures import CallOptions
from ldm.tasks.larger import HiresSettings, UpscaleSettings
from ldm.tasks.reconstruct_settings import ReconstructSettings
from ldm.tasks.settings import Img2ImgSettings, InpaintSettings, InstructSettings, OutpaintSettings, WordsSettings

RECORDS = {
    "img2img": Img2ImgSettings,
    "edit": WordsSettings,
    "instruct": InstructSettings,
    "inpaint": InpaintSettings,
    "outpaint": OutpaintSettings,
    "reconstruct": ReconstructSettings,
    "upscale": UpscaleSettings,
    "hires": HiresSettings,
}


def parameters(function) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", RECORDS)
def test_a_method_has_the_settings_and_defaults_of_its_record(name: str) -> None:
    own = parameters(getattr(LatentDiffusion, name))
    known = {each.name: each.default for each in fields(RECORDS[name])}
    given = {key: value.default for key, value in own.items() if key not in ("self", "prompt", "image", "options")}
    if name == "edit":
        assert known.pop("source") == "" and given.pop("source") is inspect.Parameter.empty
    if name == "inpaint":
        known.pop("mask")
        assert given.pop("mask_image") is inspect.Parameter.empty
    if name == "reconstruct":
        known["mask_image"] = known.pop("mask")
    assert given == known


def test_the_other_keywords_are_those_of_a_plain_call() -> None:
    call = parameters(LatentDiffusion.__call__)
    left_out = {"self", "prompt", "task", "latents"}  # a task says itself where the sampling starts
    assert set(CallOptions.__annotations__) == set(call) - left_out
    for name, kind in CallOptions.__annotations__.items():
        kind = getattr(kind, "__forward_arg__", kind)
        assert str(kind) == str(call[name].annotation), name


def test_unknown_keywords_are_explained(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    with pytest.raises(TypeError, match=r"unknown keyword 'image'; a picture is put in with model.img2img"):
        model("x", image=picture())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"unknown keyword 'mask_image'; masks belong to model.inpaint"):
        model.img2img("x", picture(), mask_image=picture())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"unknown keyword 'strenght'; did you mean 'strength'"):
        model.img2img("x", picture(), strenght=0.3)  # type: ignore[call-arg]
    assert model.img2img("x", picture(), 0.5, num_inference_steps=2, seed=1).images[0].size == (32, 32)
