"""A drawing step by step: where it may begin, what may wrap it, what it leaves behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.denoiser import Denoiser, Prediction
from ldm.generation.draw import DrawStep, Start, Walk, draw
from ldm.generation.request import Request
from ldm.generation.resolve import ResolvedRequest, resolve_request
from ldm.noise import NoiseSource
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS

REQUEST = Request(prompt=("apple", "dark sea"), seed=3, num_inference_steps=6, guidance_scale=3.0, upscale=False)
PROCESSES: dict[str, tuple[Process, str]] = {
    "discrete": (DiscreteVP(), "epsilon"),
    "zero_snr": (DiscreteVP(zero_terminal_snr=True), "v_prediction"),
    "flow": (Flow(), "flow"),
    "edm": (EDM(), "sample"),
}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def of(model: LatentDiffusion, process: str) -> LatentDiffusion:
    kind, prediction = PROCESSES[process]
    return LatentDiffusion(replace(model.parts, process=kind, prediction_type=prediction))


def run(model: LatentDiffusion, resolved: ResolvedRequest, start: Start | None = None) -> tuple[list[DrawStep], Tensor]:
    steps = []
    with torch.no_grad():
        drawing = draw(model, resolved, start)
        while True:
            try:
                steps.append(next(drawing))
            except StopIteration as end:
                return steps, end.value


def noise(resolved: ResolvedRequest) -> Tensor:
    return resolved.process.initial(NoiseSource(resolved.seeds, resolved.latent_size)(), resolved.grid[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_start_at_step_0_from_noise_is_the_plain_call(model: LatentDiffusion, sampler: str) -> None:
    request = replace(REQUEST, sampler=sampler)
    resolved = resolve_request(model, request)
    plain = model(list(request.prompts), seed=3, num_inference_steps=6, guidance_scale=3.0, sampler=sampler)
    started = model.steps(request, start=Start(noise(resolved))).result
    assert [a.tobytes() for a in started.images] == [b.tobytes() for b in plain.images]
    assert started.recipes == [] and len(plain.recipes) == 2


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_going_on_from_a_step_is_the_uninterrupted_run(model: LatentDiffusion, sampler: str, process: str) -> None:
    model = of(model, process)
    resolved = resolve_request(model, replace(REQUEST, prompt=("apple", "[apple:sea:3]"), sampler=sampler))
    steps, latents = run(model, resolved)
    assert torch.isfinite(latents).all()
    first, second = ([step for step in steps if step.rows == (row,)] for row in (0, 1))
    for index in range(len(resolved.grid)):
        x = noise(resolved) if index == 0 else torch.cat([each[index - 1].x for each in (first, second)])
        rest, again = run(model, resolved, Start(x, index))
        assert torch.equal(again, latents)
        assert [(step.index, step.total, step.t) for step in rest if step.rows == (0,)] == [
            (step.index, step.total, step.t) for step in first[index:]
        ]


def test_steps_know_their_pictures_and_show_them(model: LatentDiffusion) -> None:
    drawing = model.steps(replace(REQUEST, prompt=("apple", "sea AND apple", "dark")))
    steps = list(drawing)
    assert [step.rows for step in steps] == [(0, 2)] * 6 + [(1,)] * 6
    assert steps[0].preview.shape == (2, 3, 8, 8) and steps[-1].preview.shape == (1, 3, 8, 8)
    last = torch.nn.functional.adaptive_avg_pool2d(model.decode(steps[5].prediction.x0), 8)
    assert torch.equal(steps[5].preview, last)
    assert len(drawing.result.images) == 3 and drawing.result is drawing.result


def test_the_preview_is_that_of_the_latent_format_where_there_is_one(model: LatentDiffusion) -> None:
    matrix = tuple((0.1 * row, 0.2, -0.1 * row) for row in range(5))
    latent_format = replace(model.parts.latent_format, preview=matrix)
    with_matrix = LatentDiffusion(replace(model.parts, latent_format=latent_format))
    step = next(with_matrix.steps(REQUEST))
    assert torch.equal(step.preview, latent_format.to_rgb(step.prediction.x0))


def test_a_drawing_left_early_leaves_nothing_changed(model: LatentDiffusion) -> None:
    before = model.steps(REQUEST).result.images
    state = [value.clone() for value in model.parts.unet.state_dict().values()]
    drawing = model.steps(REQUEST)
    next(drawing)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    drawing.close()
    assert list(drawing) == []
    with pytest.raises(ValueError, match="ended before its last step"):
        _ = drawing.result
    assert all(torch.equal(*pair) for pair in zip(state, model.parts.unet.state_dict().values(), strict=True))
    assert [a.tobytes() for a in model.steps(REQUEST).result.images] == [b.tobytes() for b in before]


def test_two_drawings_may_take_turns(model: LatentDiffusion) -> None:
    one, other = (replace(REQUEST, seed=seed, sampler="dpmpp_2m_sde") for seed in (1, 2))
    alone = [model.steps(each).result.images[0].tobytes() for each in (one, other)]
    drawings = model.steps(one), model.steps(other)
    for _ in zip(*drawings, strict=True):
        pass
    assert [drawing.result.images[0].tobytes() for drawing in drawings] == alone


def test_a_wrapper_is_what_the_sampler_calls(model: LatentDiffusion) -> None:
    seen: list[tuple[int, ...]] = []

    class Nothing:
        def __init__(self, denoiser: Denoiser) -> None:
            self.process = denoiser.process

        def __call__(self, x: Tensor, t: float) -> Prediction:
            return Prediction(torch.zeros_like(x), torch.zeros_like(x))

    def wrap(denoiser: Denoiser, walk: Walk) -> Denoiser:
        seen.append(tuple(walk.rows))
        return Nothing(denoiser)

    result = model.steps(replace(REQUEST, sampler="euler"), wrap=wrap, output_type="latent").result
    assert seen == [(0, 1)] and bool((result.images == 0).all())


def test_gradients_flow_through_steps(model: LatentDiffusion) -> None:
    resolved = resolve_request(model, replace(REQUEST, num_inference_steps=2))
    x = noise(resolved).requires_grad_()
    for step in draw(model, resolved, Start(x)):
        last = step.x
    last.sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Start(torch.zeros(1, 4, 8, 8)), r"latents are \(1, 4, 8, 8\); this call needs \(2, 4, 8, 8\)"),
        (Start(torch.zeros(2, 4, 8, 8), 7), "index=7 is no step to begin with; use 0 to 6"),
        (Start(torch.zeros(2, 4, 8, 8), -1), "index=-1"),
    ],
)
def test_impossible_starts_are_named(model: LatentDiffusion, start: Start, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(model.steps(REQUEST, start=start))


def test_encode_and_decode_are_the_autoencoders_round_trip(model: LatentDiffusion) -> None:
    pictures = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    autoencoder = model.parts.autoencoder
    with torch.no_grad():
        expected = autoencoder.decode(autoencoder.encode(pictures * 2 - 1).mean)
    latents = model.encode(pictures)
    assert latents.shape == (2, 4, 8, 10)
    torch.testing.assert_close(model.decode(latents), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_generator_samples_from_the_posterior(model: LatentDiffusion) -> None:
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = model.encode(pictures)
    samples = torch.cat([model.encode(pictures, torch.Generator().manual_seed(seed)) for seed in range(200)])
    std = model.parts.autoencoder.encode(pictures * 2 - 1).std * model.parts.latent_format.scale
    away = (samples.mean(0) - mean[0]) / (std[0] / 200**0.5)
    assert away.abs().max() < 5 and 0.8 < away.square().mean() < 1.2
    assert torch.equal(samples[:1], model.encode(pictures, torch.Generator().manual_seed(0)))


def test_requests_and_calls_draw_the_same(model: LatentDiffusion) -> None:
    by_call = model(["apple", "dark sea"], seed=3, num_inference_steps=6, guidance_scale=3.0)
    by_request = model.steps(REQUEST).result
    assert [a.tobytes() for a in by_call.images] == [b.tobytes() for b in by_request.images]
    assert by_call.recipes == by_request.recipes
    again = model.steps(by_request.recipes[1].request()).result
    assert again.recipes == [replace(by_request.recipes[1], batch_size=1)]


def test_a_start_made_of_the_seeds_noise_and_another_denoiser_of_the_same_pictures(model: LatentDiffusion) -> None:
    plain = model.steps(REQUEST).result.images
    resolved = resolve_request(model, REQUEST)
    again = Start(lambda walk: resolved.process.initial(walk.noise, resolved.grid[0]))

    def anew(denoiser: Denoiser, walk: Walk) -> Denoiser:
        prompts, negatives = ([texts[row] for row in walk.rows] for texts in (resolved.prompts, resolved.negatives))
        return walk.denoiser_of(prompts, negatives, resolved.guidance)

    for given in ({"start": again}, {"wrap": anew}):
        assert [a.tobytes() for a in model.steps(REQUEST, **given).result.images] == [b.tobytes() for b in plain]

    def of_two_forms(denoiser: Denoiser, walk: Walk) -> Denoiser:
        return walk.denoiser_of(["apple", "apple AND sea"], ["", ""], resolved.guidance)

    with pytest.raises(ValueError, match="needs one form"):
        next(model.steps(REQUEST, wrap=of_two_forms))
