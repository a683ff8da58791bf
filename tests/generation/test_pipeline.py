"""The pipeline against diffusers' StableDiffusionPipeline, and the laws of seeds, batches and folders."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file
from stable_diffusion import make_stable_diffusion

from conditioning.clip.clip_text import ClipText
from ldm import LatentDiffusion
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.scheduler import process_for
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.samplers import SAMPLERS

PROMPTS, NEGATIVE = ["a red apple", "dark sea"], "blue"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def zero_snr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v-prediction, zero-terminal SNR, trailing: what the shipped model is."""
    return make_stable_diffusion(
        tmp_path_factory.mktemp("zero_snr"),
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def initial_latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(7))


def theirs(folder: Path, scheduler=None, scale: float = 5.0, rescale: float = 0.0, steps: int = 10) -> torch.Tensor:
    """diffusers' pictures (2, 3, 32, 32) in [0, 1] from the same initial latent."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    if scheduler is not None:
        cls, options = scheduler
        pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        latents=initial_latents(),
        num_inference_steps=steps,
        guidance_scale=scale,
        guidance_rescale=rescale,
        output_type="pt",
    ).images


def ours(model: LatentDiffusion, scale: float = 5.0, rescale: float = 0.0, steps: int = 10, **names) -> torch.Tensor:
    result = model(
        PROMPTS,
        negative_prompt=NEGATIVE,
        latents=initial_latents(),
        num_inference_steps=steps,
        guidance_scale=scale,
        guidance_rescale=rescale,
        output_type="pt",
        **names,
    )
    return result.images


SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
}


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_samplers_draw_what_diffusers_draws(model: LatentDiffusion, tiny_folder: Path, sampler: str) -> None:
    expected = theirs(tiny_folder, SCHEDULERS[sampler])
    assert (expected[0] - expected[1]).abs().max() > 0.1  # the prompts do show
    torch.testing.assert_close(ours(model, sampler=sampler), expected, atol=1e-4, rtol=0)


# Not DDIM on linspace: diffusers takes t - T // n there for the next timestep, which is not the next of its own grid.
@pytest.mark.parametrize(
    ("sampler", "schedule"), [("ddim", "trailing"), ("dpmpp_2m", "trailing"), ("dpmpp_2m", "linspace")]
)
def test_schedules_draw_what_diffusers_draws(
    model: LatentDiffusion, tiny_folder: Path, sampler: str, schedule: str
) -> None:
    expected = theirs(tiny_folder, (SCHEDULERS[sampler][0], {"timestep_spacing": schedule}))
    torch.testing.assert_close(ours(model, sampler=sampler, schedule=schedule), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("scale", "rescale"), [(1.0, 0.0), (7.5, 0.7)])
def test_zero_terminal_snr_draws_what_diffusers_draws(zero_snr_folder: Path, scale: float, rescale: float) -> None:
    model = LatentDiffusion.from_pretrained(zero_snr_folder)
    expected = theirs(zero_snr_folder, scale=scale, rescale=rescale)
    torch.testing.assert_close(ours(model, scale, rescale), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler"),
    [
        ("ddim", "leading", DDIMScheduler),
        ("ddim", "trailing", DDIMScheduler),
        ("ddpm", "trailing", DDPMScheduler),
        ("dpmpp_2m", "leading", DPMSolverMultistepScheduler),
        ("heun", "karras", HeunDiscreteScheduler),
        ("euler", "leading", EulerDiscreteScheduler),
    ],
)
def test_saved_folder_opens_in_diffusers_and_draws_the_same(
    model: LatentDiffusion, tmp_path: Path, sampler: str, schedule: str, scheduler: type
) -> None:
    defaults = dataclasses.replace(model.parts.defaults, sampler=sampler, schedule=schedule)
    # The folder's terminal point with noise left is its DDIM's; other schedulers have none, and saving says so.
    process = process_for(sampler, model.parts.process, own_sampler="ddim")
    saved = LatentDiffusion(dataclasses.replace(model.parts, defaults=defaults, process=process))
    saved.save_pretrained(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(pipeline.scheduler, scheduler)
    assert LatentDiffusion.from_pretrained(tmp_path / "model").parts.defaults == defaults
    if sampler == "ddpm":
        return  # its noise is drawn elsewhere
    expected = theirs(tmp_path / "model")
    # The Euler family of diffusers begins with 0.2 % less noise on a grid that begins at the last timestep.
    torch.testing.assert_close(ours(saved), expected, atol=1e-2 if schedule == "karras" else 1e-4, rtol=0)


def test_saving_and_loading_is_the_identity(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    again = LatentDiffusion.from_pretrained(tmp_path / "model")
    assert again.parts.process == model.parts.process
    assert again.parts.latent_format == model.parts.latent_format
    assert torch.equal(ours(again), ours(model))


def test_folder_saved_in_half_precision_holds_half_precision(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model", dtype=torch.float16)
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        tensors = load_file(tmp_path / "model" / f"{name}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}, name
    assert next(model.parts.unet.parameters()).dtype == torch.float32
    again = LatentDiffusion.from_pretrained(tmp_path / "model")
    assert (ours(again) - ours(model)).abs().mean() < 0.01


def test_a_half_precision_folder_draws_in_diffusers_without_a_dtype(model: LatentDiffusion, tmp_path: Path) -> None:
    """What a model card says: `from_pretrained(folder)` alone; transformers takes the type that the config names."""
    model.save_pretrained(tmp_path / "model", dtype=torch.float16)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == torch.float32
    assert len(pipeline("a fox", num_inference_steps=1, width=64, height=64).images) == 1


def test_a_folder_that_holds_files_is_overwritten_only_on_request(model: LatentDiffusion, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty; give another folder, or overwrite=True"):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    model.save_pretrained(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "model_index.json").is_file()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_picture_of_a_batch_equals_the_single_one(model: LatentDiffusion, sampler: str) -> None:
    options = {"num_inference_steps": 4, "sampler": sampler, "output_type": "pt"}
    batch = model(PROMPTS, seed=5, num_images_per_prompt=2, **options)
    assert batch.seeds == [5, 6, 7, 8]
    assert batch.prompts == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    for i, (prompt, seed) in enumerate(zip(batch.prompts, batch.seeds, strict=True)):
        single = model(prompt, seed=seed, **options).images[0]
        torch.testing.assert_close(batch.images[i], single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 9])
def test_batch_size_changes_rounding_only(model: LatentDiffusion, batch_size: int) -> None:
    options = {"num_inference_steps": 4, "sampler": "dpmpp_2m_sde", "output_type": "pt", "seed": 5}
    prompts = ["apple", "dark sea", "apple", "[apple:sea:2]", "apple"]
    together, batches = model(prompts, **options), model(prompts, batch_size=batch_size, **options)
    torch.testing.assert_close(batches.images, together.images, atol=1e-4, rtol=0)
    assert [recipe.batch_size for recipe in batches.recipes] == [min(batch_size, 5)] * 5


def test_equal_prompts_are_encoded_once_a_drawing(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode_ids = ClipText.encode_ids
    monkeypatch.setattr(
        ClipText, "encode_ids", lambda self, ids, *rest: encoded.append(ids) or encode_ids(self, ids, *rest)
    )
    model(["apple"] * 5 + ["sea"], negative_prompt="dark", batch_size=2, num_inference_steps=2)
    assert len(encoded) == 3


def test_seed_zero_is_a_seed_and_no_seed_is_random_and_reported(model: LatentDiffusion) -> None:
    def draw(seed: int | None):
        return model("apple", seed=seed, num_inference_steps=2, output_type="pt")

    assert torch.equal(draw(0).images, draw(0).images)
    drawn = draw(None)
    assert drawn.seeds != draw(None).seeds
    assert torch.equal(drawn.images, draw(drawn.seeds[0]).images)


def test_generator_draws_what_its_seed_draws(model: LatentDiffusion) -> None:
    options = {"num_inference_steps": 2, "output_type": "pt"}
    one = model("apple", generator=torch.Generator().manual_seed(9), **options)
    assert torch.equal(one.images, model("apple", seed=9, **options).images)
    assert one.seeds == [9] and one.recipes == []
    both = model(
        "apple", generator=[torch.Generator().manual_seed(s) for s in (9, 4)], num_images_per_prompt=2, **options
    )
    torch.testing.assert_close(both.images[:1], one.images, atol=1e-5, rtol=0)


def test_recipe_repeats_the_picture(model: LatentDiffusion) -> None:
    first = model("apple", negative_prompt="sea", num_inference_steps=3, guidance_scale=3.0, sampler="heun", width=40)
    recipe = first.recipes[0]
    again = model(
        recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
        guidance_rescale=recipe.guidance_rescale,
        width=recipe.width,
        height=recipe.height,
        seed=recipe.seed,
        sampler=recipe.sampler,
        schedule=recipe.schedule,
        upscale=recipe.upscale,
    )
    assert first.images[0].size == (40, 32)
    assert np.array_equal(first.images[0], again.images[0])
    assert again.recipes == first.recipes


def test_output_types_show_the_same_picture(model: LatentDiffusion) -> None:
    def draw(output_type: str):
        return model("apple", seed=1, num_inference_steps=2, output_type=output_type).images

    tensor = draw("pt")
    assert tensor.shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(draw("np"), tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.asarray(draw("pil")[0]), (draw("np")[0] * 255).round())
    assert torch.equal(model.decode(draw("latent")), tensor)


def test_callback_sees_every_step_and_can_stop(model: LatentDiffusion) -> None:
    seen = []
    model("apple", num_inference_steps=5, callback=lambda step: seen.append((step.index, step.total)))
    assert seen == [(i, 5) for i in range(5)]

    def stop(step) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        model("apple", num_inference_steps=5, callback=stop)


def test_upscaler_enlarges_by_default_and_can_be_left_out(model: LatentDiffusion, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = dataclasses.replace(model.parts, upscaler=Upscaler(UpscalerConfig(width=8, blocks=1)).eval())
    LatentDiffusion(parts).save_pretrained(tmp_path / "model")
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "model").unet is not None  # diffusers looks past it
    large = LatentDiffusion.from_pretrained(tmp_path / "model")
    options = {"seed": 3, "num_inference_steps": 2}
    small, enlarged = large("apple", upscale=False, **options), large("apple", **options)
    assert small.images[0].size == (32, 32) and not small.recipes[0].upscale
    assert enlarged.images[0].size == (128, 128) and enlarged.recipes[0].upscale
    # An untrained upscaler is bicubic, so shrinking gives the small picture back.
    shrunk = np.asarray(enlarged.images[0].resize((32, 32)), dtype=float)
    assert np.abs(shrunk - np.asarray(small.images[0])).mean() < 12
    assert large("apple", width=160, height=64, **options).images[0].size == (160, 64)
    with pytest.raises(ValueError, match="width=144 is not a multiple of 32; use 128 or 160"):
        large("apple", width=144, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 130}, "height=130 is not a multiple of 8; use 128 or 136"),
        ({"width": -8}, "width=-8 is not possible; use 8 to 65,536"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 .* use 1 to 10,000"),
        ({"num_inference_steps": -3}, "num_inference_steps=-3"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 .* 1000"),
        ({"sampler": "eular"}, "sampler 'eular'; did you mean 'euler'"),
        ({"schedule": "karas"}, "schedule 'karas'; did you mean 'karras'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1, "generator": torch.Generator()}, "seed=1 and a generator"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative_prompt"),
        ({"guidance_rescale": 1.5}, "guidance_rescale=1.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"output_type": "jpg"}, "output_type 'jpg'"),
        ({"latents": torch.zeros(1, 4, 9, 8)}, r"latents are \(1, 4, 9, 8\)"),
    ],
)
def test_impossible_requests_name_the_argument(model: LatentDiffusion, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model("apple", **options)


def test_class_conditional_folder_draws_classes(model: LatentDiffusion, tmp_path: Path) -> None:
    from ldm.networks.unet import UNet

    torch.manual_seed(0)
    config = dataclasses.replace(
        model.parts.unet.config, num_classes=11, context_dim=None, transformer_layers=(0, 0), mid_transformer_layers=0
    )
    parts = dataclasses.replace(model.parts, text=None, unet=UNet(config).eval())
    LatentDiffusion(parts).save_pretrained(tmp_path / "digits")
    digits = LatentDiffusion.from_pretrained(tmp_path / "digits")
    options = {"seed": 0, "num_inference_steps": 3, "output_type": "pt"}
    seven, eight = digits("7", **options).images, digits("8", **options).images
    assert torch.isfinite(seven).all() and not torch.equal(seven, eight)
    with pytest.raises(ValueError, match="label='11'"):
        digits("11", **options)


def test_other_pipelines_are_refused_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(ModelFileError, match=r"model_index\.json: _class_name='FluxPipeline'"):
        LatentDiffusion.from_pretrained(tmp_path / "model")


@pytest.mark.slow
def test_threads_draw_the_bytes_of_the_serial_run(model: LatentDiffusion) -> None:
    requests = [{"seed": seed, "sampler": list(SAMPLERS)[seed % len(SAMPLERS)]} for seed in range(160)]

    def draw(request: dict) -> bytes:
        return model("a red apple", num_inference_steps=2, output_type="np", **request).images.tobytes()

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, requests))
    assert together == [draw(request) for request in requests]


def test_a_written_schedule_says_how_many_steps(model: LatentDiffusion) -> None:
    times = [999, 600, 200]
    written = model("sea", seed=0, schedule="timesteps", schedule_options={"values": times}, output_type="latent")
    assert written.recipes[0].num_inference_steps == 3
    seen: list[float] = []
    model(
        "sea",
        seed=0,
        schedule="timesteps",
        schedule_options={"values": times},
        callback=lambda step: seen.append(step.t),
    )
    assert seen == [600, 200, -1]
    sigmas = [(model.parts.process.sigma(t) / model.parts.process.alpha(t)).item() for t in times]
    same = model("sea", seed=0, schedule="sigmas", schedule_options={"values": sigmas}, output_type="latent")
    torch.testing.assert_close(same.images, written.images, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="num_inference_steps=25 does not go with 3 timesteps; use 3"):
        model("sea", schedule="timesteps", schedule_options={"values": times}, num_inference_steps=25)
    with pytest.raises(ValueError, match="takes one option, values"):
        model("sea", schedule="sigmas", num_inference_steps=4)
