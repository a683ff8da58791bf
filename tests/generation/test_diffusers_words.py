"""What users of diffusers try first: embeddings, callbacks, schedulers, pipelines, parts; against diffusers itself."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from families import NEGATIVE, PROMPTS, make_family
from torch import Tensor

from ldm import LatentDiffusion
from ldm.generation.request import Request
from ldm.generation.resolve import resolve_request
from ldm.samplers import SAMPLERS, Step
from ldm.samplers.step import levels_of

KNOBS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Any:
    made = StableDiffusionPipeline.from_pretrained(tiny_folder)
    made.set_progress_bar_config(disable=True)
    return made


def first(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(7))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def embeds(count: int, seed: int) -> Tensor:
    return 3 * torch.randn(count, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sides", ["both", "prompt", "negative"])
def test_embeddings_draw_what_diffusers_draws(model: LatentDiffusion, pipeline: Any, sides: str) -> None:
    given: dict[str, Any] = {"num_images_per_prompt": 2, "latents": first(4), **KNOBS}
    given |= {"prompt": ["apple", "sea"]} if sides == "negative" else {"prompt_embeds": embeds(2, 1)}
    given |= {"negative_prompt": ["red", "ap"]} if sides == "prompt" else {"negative_prompt_embeds": embeds(2, 2)}
    drawn = model(**given)
    expected = pipeline(**given).images
    assert (expected[0] - expected[2]).abs().max() > 0.05
    close(drawn.images, expected)
    assert drawn.recipes == []  # which could not repeat them


def test_pooled_embeddings_draw_what_diffusers_draws(tmp_path: Path) -> None:
    pipeline = make_family("sdxl", tmp_path)
    model = LatentDiffusion.from_diffusers(pipeline)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    read = pipeline.encode_prompt(PROMPTS, negative_prompt=[NEGATIVE] * len(PROMPTS))
    given = dict(zip(names, read, strict=True))
    pipeline.set_progress_bar_config(disable=True)
    given |= {"latents": first(2), **KNOBS}
    close(model(**given).images, pipeline(**given).images)
    ours = model.encode_prompt(PROMPTS, NEGATIVE)
    for side, states, pooled in ((ours[0], read[0], read[2]), (ours[1], read[1], read[3])):
        close(side.tokens, states)
        close(side.pooled, pooled)
    with pytest.raises(ValueError, match="pooled_prompt_embeds"):
        model(prompt_embeds=given["prompt_embeds"], negative_prompt_embeds=given["negative_prompt_embeds"])


def test_encoded_prompts_are_what_the_prompts_give(model: LatentDiffusion) -> None:
    knobs = {"seed": 3, "num_inference_steps": 3, "output_type": "pt"}
    texts, negative = ["(red:1.4) apple", "ap ap ap ap ap ap ap ap"], "sea"  # a weight, and two chunks
    prompt, away = model.encode_prompt(texts, negative)
    drawn = model(prompt_embeds=prompt.tokens, negative_prompt_embeds=away.tokens, **knobs).images
    plain = [model(text, negative_prompt=negative, **{**knobs, "seed": 3 + i}).images for i, text in enumerate(texts)]
    close(drawn[1:], plain[1])
    assert prompt.tokens.shape == (2, 32, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no prompt"),
        ({"prompt": "a", "prompt_embeds": embeds(1, 1)}, "use one of them"),
        ({"prompt_embeds": embeds(1, 1)[:, :, :8]}, "prompt_embeds has width 8; this model needs 16"),
        ({"prompt_embeds": embeds(1, 1)[0]}, r"prompt_embeds is \(16, 16\)"),
        ({"prompt_embeds": embeds(1, 1)[:, :5]}, "give both prompt_embeds and negative_prompt_embeds"),
        ({"prompt_embeds": embeds(1, 1), "negative_prompt_embeds": embeds(1, 1)[:, :5]}, "same L and D"),
        ({"pooled_prompt_embeds": torch.zeros(1, 16)}, "came alone"),
    ],
)
def test_embeddings_that_do_not_fit_are_named(model: LatentDiffusion, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**given, seed=0, num_inference_steps=1)


@pytest.mark.parametrize("change", [False, True])
def test_a_callback_at_the_end_of_a_step_is_diffusers(model: LatentDiffusion, pipeline: Any, change: bool) -> None:
    seen: dict[str, list[int]] = {"here": [], "there": []}

    def callback(where: str):
        def after(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            seen[where] += [index, round(float(timestep))]
            if change and index in (1, 3):
                tensors["latents"] = tensors["latents"].flip(-1) * 0.9
            return tensors

        return after

    knobs = {**KNOBS, "prompt": PROMPTS, "latents": first(len(PROMPTS)), "num_inference_steps": 5}
    drawn = model(callback_on_step_end=callback("here"), **knobs)
    close(drawn.images, pipeline(callback_on_step_end=callback("there"), **knobs).images)
    assert seen["here"] == seen["there"]
    plain = model(**knobs).images
    assert ((plain - drawn.images).abs().max() > 0.01) == change


def test_changed_latents_leave_no_recipe_and_may_be_refused(model: LatentDiffusion) -> None:
    knobs: dict[str, Any] = {"seed": 1, "num_inference_steps": 4}
    assert len(model("a", callback_on_step_end=lambda *_: {}, **knobs).recipes) == 1
    drawn = model("a", callback_on_step_end=lambda _1, _2, _3, given: {"latents": given["latents"] + 1}, **knobs)
    assert drawn.recipes == [] and "ldm" not in drawn.images[0].info
    with pytest.raises(ValueError, match="'restart' adds steps"):
        model("a", sampler="restart", callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 4, 8, 8)}, **knobs)
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\); this step has \(1, 4, 8, 8\)"):
        model("a", callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 4, 2, 2)}, **knobs)
    with pytest.raises(ValueError, match="'prompt_embeds'; only 'latents'"):
        model("a", callback_on_step_end=lambda *_: {"prompt_embeds": None}, **knobs)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "lms"])
def test_a_sampler_with_a_memory_begins_anew_from_changed_latents(model: LatentDiffusion, sampler: str) -> None:
    """The steps after a change are those of a drawing that starts there."""
    request = Request(prompt="apple", seed=1, num_inference_steps=5, sampler=sampler)
    other = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    drawing = model.steps(request)
    xs = []
    for step in drawing:
        xs.append(step.x)
        if step.index == 2:
            drawing.go_on_from(other)
    from ldm.generation.draw import Start

    rest = [step.x for step in model.steps(request, start=Start(other, 3))]
    assert len(xs) == 5 and all(torch.equal(a, b) for a, b in zip(xs[3:], rest, strict=True))


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (DDIMScheduler, {"timestep_spacing": "trailing"}),
        (EulerDiscreteScheduler, {}),
        (DPMSolverMultistepScheduler, {}),
        (DPMSolverMultistepScheduler, {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}),
    ],
)
def test_a_scheduler_draws_what_it_draws_there(
    model: LatentDiffusion, pipeline: Any, scheduler: Any, options: Any
) -> None:
    made, before = scheduler.from_config(model.scheduler.config, **options), pipeline.scheduler
    knobs = {**KNOBS, "prompt": PROMPTS, "latents": first(len(PROMPTS)), "num_inference_steps": 5}
    try:
        pipeline.scheduler = scheduler.from_config(before.config, **options)
        off = 2e-3 if "use_karras_sigmas" in options else 1e-4  # whose timesteps are rounded there
        torch.testing.assert_close(model(sampler=made, **knobs).images, pipeline(**knobs).images, atol=off, rtol=0)
    finally:
        pipeline.scheduler = before
    drawn = model("apple", sampler=made, seed=4, num_inference_steps=3)
    again = model.steps(drawn.recipes[0].request()).result
    assert again.images[0].tobytes() == drawn.images[0].tobytes()


def test_a_scheduler_of_another_noise_is_refused_with_the_mend(model: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler\.from_config\(model\.scheduler\.config\)"):
        model("a", sampler=EulerDiscreteScheduler())
    with pytest.raises(ValueError, match="no name, no function and no scheduler"):
        model("a", sampler=3)
    with pytest.raises(AttributeError, match="sampler="):
        model.scheduler = EulerDiscreteScheduler()


def my_euler(denoise, x, grid, noise, *, scale: float = 1.0):
    """Euler's step in sigma / alpha, written by someone else."""
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        seen = denoise(x, now.t)
        x = scale * (then.alpha * seen.x0 + then.sigma * seen.eps)
        yield Step(index, len(levels) - 1, then.t, x, seen)


def test_a_sampler_of_ones_own_draws(model: LatentDiffusion) -> None:
    knobs: dict[str, Any] = {"seed": 2, "num_inference_steps": 4, "schedule": "trailing", "output_type": "latent"}
    named = model("apple", sampler="euler", **knobs)
    own = model("apple", sampler=my_euler, **knobs)
    close(own.images, named.images)
    assert own.recipes == [] and len(named.recipes) == 1
    assert torch.equal(model("apple", sampler=SAMPLERS["ddim"], **knobs).images, model("apple", **knobs).images)
    other = model("apple", sampler=my_euler, sampler_options={"scale": 0.5}, **knobs)
    assert (other.images - own.images).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"'my_euler' has no option 'skale'; did you mean 'scale'"):
        model("apple", sampler=my_euler, sampler_options={"skale": 0.5}, **knobs)


def test_an_attention_hook_stands_in_every_layer(model: LatentDiffusion) -> None:
    knobs: dict[str, Any] = {"seed": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def watching(layer, q, k, v, mask):
        shapes.setdefault(layer.name, []).append(tuple(k.shape))
        return layer.attend(q, k, v, mask)

    plain = model(PROMPTS, **knobs)
    seen = model(PROMPTS, attention_hook=watching, **knobs)
    close(seen.images, plain.images)
    assert seen.recipes == []
    layers = [name for name, _ in model.unet.named_modules() if name.endswith((".attn1", ".attn2"))]
    assert sorted(shapes) == sorted(layers) and layers
    assert all(len(calls) == 4 for calls in shapes.values())  # two steps, negative prompt and prompt
    assert all(calls[0][0] == len(PROMPTS) for calls in shapes.values())
    off = model(PROMPTS, attention_hook=lambda layer, q, k, v, mask: torch.zeros_like(q), **knobs)
    assert (off.images - plain.images).abs().max() > 0.01


def test_a_pipeline_in_memory_draws_what_it_drew(pipeline: Any) -> None:
    changed = StableDiffusionPipeline(
        **{**pipeline.components, "unet": type(pipeline.unet)(**pipeline.unet.config)}, requires_safety_checker=False
    )
    changed.set_progress_bar_config(disable=True)
    knobs = {**KNOBS, "prompt": PROMPTS, "latents": first(len(PROMPTS))}
    expected = changed(**knobs).images
    assert (pipeline(**knobs).images - expected).abs().max() > 0.01  # not what its folder holds
    model = LatentDiffusion.from_diffusers(changed)
    close(model(**knobs).images, expected)
    assert model.dtype == torch.float32 and str(model.device) == "cpu"
    with pytest.raises(ValueError, match="DDIMScheduler does not open here"):
        LatentDiffusion.from_diffusers(pipeline.scheduler, device="cpu", dtype="float32")


def test_parts_have_diffusers_names(model: LatentDiffusion, tiny_folder: Path) -> None:
    assert repr(model).startswith(f"LatentDiffusion({str(tiny_folder)!r}: text to image") and "\n" not in repr(model)
    assert "float32 on cpu" in repr(model) and "unet " in repr(model)
    assert set(model.components) == {"unet", "vae", "text_encoder", "tokenizer"}
    for name, part in model.components.items():
        assert getattr(model, name) is part
    assert type(model.text_encoder).__name__ == "CLIPTextModel" and model.text_encoder_2 is None


def test_a_model_moves_and_changes_its_number_format(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert model.to(torch.bfloat16) is model and model.dtype == torch.bfloat16
    assert {p.dtype for p in model.vae.parameters()} == {torch.bfloat16}
    ready = LatentDiffusion.from_pretrained(tiny_folder, dtype="bfloat16")
    knobs = {"seed": 0, "num_inference_steps": 2}
    assert model("apple", **knobs).images[0].tobytes() == ready("apple", **knobs).images[0].tobytes()
    assert model("apple", **knobs).recipes[0].dtype == "bfloat16"
    model.to("cpu", torch.float16)
    assert {p.dtype for p in model.vae.parameters()} == {torch.float32} and model.dtype == torch.float16
    with pytest.raises(ValueError, match=r"torch\.int64 is not supported"):
        model.to(torch.int64)
    with pytest.raises(ValueError, match="cannot be used here"):
        model.to("cuda:77")


def test_a_bar_shows_every_step(model: LatentDiffusion, capsys: pytest.CaptureFixture) -> None:
    model(PROMPTS, seed=0, num_inference_steps=3, progress_bar=True)
    assert f"{3 * len(PROMPTS)}/{3 * len(PROMPTS)}" in capsys.readouterr().err
    model(PROMPTS, seed=0, num_inference_steps=3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("scheduler", "it is sampler here"),
        ("num_inference_step", "did you mean 'num_inference_steps'"),
        ("cfg_scale", "guidance_scale"),
        ("image", "model.img2img"),
        ("eta", "sampler_options"),
    ],
)
def test_unknown_keywords_name_the_right_one(model: LatentDiffusion, keyword: str, message: str) -> None:
    with pytest.raises(TypeError, match=f"unknown keyword '{keyword}'.*{message}"):
        model("a", **{keyword: 1})


def test_unknown_keywords_of_loading_name_the_right_one(tiny_folder: Path) -> None:
    for keyword, message in (("torch_dtype", "it is dtype here"), ("safety_checker", "none"), ("devise", "'device'")):
        with pytest.raises(TypeError, match=message):
            LatentDiffusion.from_pretrained(tiny_folder, **{keyword: None})


def test_a_plain_request_is_repeatable(model: LatentDiffusion) -> None:
    assert resolve_request(model, Request(prompt="a", seed=1)).repeatable
