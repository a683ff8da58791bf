"""Every choice of the denoiser's objective trains, learns, and comes from cached and live latents alike."""

import itertools
import json
import re

import pytest
import torch

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip.clip_text import ClipText
from ldm.data.cache.latents import encode_moments
from ldm.data.cache.text_states import TextStates
from ldm.denoiser import PREDICTION_TYPES, NetworkDenoiser
from ldm.families.kinds import DEPTH, INPAINTING, UPSCALING
from ldm.io.folder.load import load_folder
from ldm.networks.unet import UNet, UNetConfig
from ldm.noise import NoiseSource
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.diffusion.times import TIME_SAMPLING
from ldm.training.diffusion.weighting import WEIGHTINGS
from ldm.training.objectives.concat_conditions import CONCAT_CONDITIONS
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective
from ldm.training.stages.latent_diffusion import require_exportable, write_model

SIZE = 16
KINDS = [
    *(("vp", kind) for kind in PREDICTION_TYPES),
    *(("edm", kind) for kind in PREDICTION_TYPES),
    *(("flow", kind) for kind in PREDICTION_TYPES if kind != "epsilon"),
]
CHANNELS = {"": 4, "inpainting": 9, "low_resolution": 7, "edge": 5}


def _unet(**more) -> UNet:
    shape = {"transformer_layers": (0, 0), "mid_transformer_layers": 0, "num_heads": (1, 1), "context_dim": None}
    torch.manual_seed(0)
    return UNet(UNetConfig(**{"widths": (8, 8), "blocks_per_level": 1, "norm_groups": 4, **shape, **more}))


def _objective(
    unet: UNet, text: ClipText | None = None, batch_size: int = 1, states: TextStates | None = None, **settings
) -> LatentDiffusionObjective:
    torch.manual_seed(1)
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4))
    frozen = FrozenParts(autoencoder, LatentFormat(scale=0.5, factor=2), text, states=states)
    return LatentDiffusionObjective(unet, frozen, DiffusionConfig(**settings), batch_size=batch_size)


def _batch(n: int = 4) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(n, 3, SIZE, SIZE, generator=generator) * 2 - 1,
        "label": torch.arange(n) % 3,
        "caption": ["a red apple", "red", "ap", ""][:n],
        "sizes": torch.tensor([[40.0, 60.0, 3.0, 5.0, 16.0, 16.0]] * n),
        "index": torch.arange(n) + 100,
    }


def _cached(objective: LatentDiffusionObjective, batch: dict) -> dict:
    mean, std = encode_moments(objective.frozen.autoencoder, batch["image"]).float().chunk(2, dim=1)
    return {**batch, "mean": mean, "std": std}


def _loss(objective: LatentDiffusionObjective, batch: dict, at: int | slice = slice(None)) -> torch.Tensor:
    part = {key: value[at] for key, value in batch.items()}
    return objective.loss("unet", part, [generator_for(0, int(i), 1) for i in part["index"]], 0)["loss"]


def _steps(objective: LatentDiffusionObjective, batch: dict) -> None:
    """One gradient step; the loss and all gradients are finite and reach every weight."""
    unet = objective.trained_modules["unet"]
    loss = _loss(objective, batch)
    gradients = torch.autograd.grad(loss, list(unet.parameters()))
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(("process", "kind"), KINDS)
def test_every_process_prediction_time_and_weight_takes_a_step(process, kind):
    unet = _unet(num_classes=4)
    batch = _cached(_objective(unet), _batch())
    for times, weighting in itertools.product(TIME_SAMPLING, WEIGHTINGS):
        settings = {"process": process, "prediction_type": kind, "time_sampling": times, "weighting": weighting}
        _steps(_objective(unet, zero_terminal_snr=kind != "epsilon", **settings), batch)


@pytest.mark.parametrize("concat", ["", *CONCAT_CONDITIONS])
def test_every_noise_and_concat_condition_takes_a_step(concat):
    unet = _unet(in_channels=CHANNELS[concat], num_classes=350)
    batch = _cached(_objective(_unet()), _batch())
    for offset, pyramid, perturbation in itertools.product((0.0, 0.1), (0.0, 0.8), (0.0, 0.1)):
        noises = {"offset_noise": offset, "pyramid_discount": pyramid, "input_perturbation": perturbation}
        _steps(_objective(unet, concat=concat, **noises), batch)


@pytest.mark.parametrize("concat", ["", *CONCAT_CONDITIONS])
def test_cached_and_live_latents_give_the_same_losses(concat):
    objective = _objective(_unet(in_channels=CHANNELS[concat], num_classes=350), concat=concat)
    live = _batch()
    torch.testing.assert_close(_loss(objective, live), _loss(objective, _cached(objective, live)), rtol=0, atol=1e-5)


def test_cached_and_live_token_states_give_the_same_losses(tiny_folder, tmp_path):
    text, shape = load_folder(tiny_folder).text, {"transformer_layers": (0, 1), "num_heads": (1, 2), "context_dim": 16}
    unet = _unet(pooled_dim=16, size_embedding_dim=8, **shape)
    states = TextStates(text, _batch()["caption"], tmp_path)
    live, cached = (_objective(unet, text, states=each, condition_dropout=0.5) for each in (None, states))
    for start in range(0, 100, 4):
        batch = {**_batch(), "index": torch.arange(start, start + 4)}
        torch.testing.assert_close(_loss(live, batch), _loss(cached, batch), rtol=0, atol=1e-5)
    without = _objective(unet, text, condition_dropout=0.0)
    assert _loss(without, _batch()) != _loss(live, _batch()), "captions were dropped"


def test_the_batch_may_be_cut_in_any_way():
    objective = _objective(_unet(num_classes=4), batch_size=4, offset_noise=0.1, pyramid_discount=0.5)
    batch = _cached(objective, _batch())
    parts = torch.stack([_loss(objective, batch, slice(i, i + 1)) for i in range(4)])
    torch.testing.assert_close(parts.mean(), _loss(objective, batch))


def test_a_switched_on_noise_leaves_times_and_dropout_as_they_were():
    """Choices are orthogonal: the noise of one experiment can be compared with that of another."""
    seen = []

    def times_and_labels(**settings):
        objective = _objective(_unet(num_classes=4), condition_dropout=0.5, **settings)
        objective.trained_modules["unet"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1:]))
        _loss(objective, _cached(objective, _batch()))

    times_and_labels()
    times_and_labels(offset_noise=0.1, pyramid_discount=0.5, input_perturbation=0.1)
    (time, conditioning), (other_time, other_conditioning) = seen
    assert torch.equal(time, other_time) and torch.equal(conditioning.labels, other_conditioning.labels)
    assert 3 in conditioning.labels.tolist()


def test_offset_noise_is_in_the_target_and_perturbation_is_not():
    """A network that answers nothing has the target's mean square as its loss."""
    silent = _unet()
    for parameter in silent.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    settings = {"prediction_type": "epsilon", "zero_terminal_snr": False, "weighting": "constant"}
    batch = _cached(_objective(silent), {**_batch(1), "index": torch.arange(1)})
    batch = {key: value[:1].repeat(256, *[1] * (value.ndim - 1)) for key, value in batch.items() if key != "caption"}
    batch["index"] = torch.arange(256)
    plain, perturbed, offset = (
        _loss(_objective(silent, **settings, **more), batch).item()
        for more in ({}, {"input_perturbation": 2.0}, {"offset_noise": 2.0})
    )
    assert plain == perturbed == pytest.approx(1, abs=0.03)
    assert offset == pytest.approx(5, abs=0.6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "kind"),
    [("vp", "epsilon"), ("vp", "v_prediction"), ("vp", "sample"), ("flow", "flow"), ("edm", "v_prediction")],
    ids=["epsilon", "v", "x0", "flow", "edm"],
)
def test_two_modes_are_learned(process, kind):
    """Data are 1 or -1 everywhere; samples must be near one of them, and of both kinds."""
    unet = _unet(in_channels=1, out_channels=1, widths=(16,), transformer_layers=(0,), num_heads=(1,))
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8,), latent_channels=1, blocks_per_level=1, norm_groups=4))
    config = DiffusionConfig(
        process=process,
        prediction_type=kind,
        zero_terminal_snr=kind == "v_prediction",
        weighting="soft_min_snr" if kind == "sample" else "constant",
        time_sampling="log_normal" if process == "edm" else "uniform",
        time_std=1.2,
        sigma_max=20.0,
    )
    objective = LatentDiffusionObjective(
        unet, FrozenParts(autoencoder, LatentFormat(channels=1)), config, batch_size=64
    )
    optimizer = torch.optim.Adam(unet.parameters(), lr=4e-3)
    steps = 240 if kind == "epsilon" else 120  # its errors are divided by alpha, which begins at 0.07
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        index = torch.arange(64) + 64 * step
        mean = (torch.arange(64) % 2 * 2 - 1.0)[:, None, None, None].expand(64, 1, 4, 4)
        batch = {"mean": mean, "std": torch.zeros_like(mean), "index": index}
        loss = objective.loss("unet", batch, [generator_for(0, int(i), 1) for i in index], 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made, noise = config.make_process(), NoiseSource(range(64), (1, 4, 4))
    grid = make_grid("trailing", made, 12)
    with torch.no_grad():
        *_, last = SAMPLERS["ddim"](NetworkDenoiser(unet, made, kind), made.initial(noise(), grid[0]), grid, noise)
    means = last.x.mean((1, 2, 3))
    assert ((means.abs() - 1).abs() < 0.25).double().mean() > 0.8, means
    assert 0.2 < (means > 0).double().mean() < 0.8


def test_edm_with_v_is_karras_preconditioning():
    """D = c_skip x + c_out F with F = -output, for data of deviation 1 (arXiv:2206.00364, table 1 and eq. 7)."""
    unet, x = _unet(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 5
    sigma = 3.0
    prediction = NetworkDenoiser(unet, DiffusionConfig(process="edm").make_process(), "v_prediction")(x, sigma)
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / (sigma**2 + 1) ** 0.5, 1 / (sigma**2 + 1) ** 0.5
    output = unet(c_in * x, torch.full((2,), sigma).log() / 4)
    torch.testing.assert_close(prediction.x0, c_skip * x - c_out * output)


def test_text_label_size_and_channels_go_together(tiny_folder):
    text = load_folder(tiny_folder).text
    unet = _unet(
        in_channels=9,
        num_classes=4,
        transformer_layers=(0, 1),
        num_heads=(1, 2),
        context_dim=16,
        pooled_dim=16,
        size_embedding_dim=8,
    )
    objective = _objective(unet, text, concat="inpainting")
    _steps(objective, _batch())
    bigger = {**_batch(), "sizes": 2 * _batch()["sizes"]}
    assert _loss(objective, bigger) != _loss(objective, _batch()), "the network hears the sizes"
    without = {key: value for key, value in _batch().items() if key != "sizes"}
    with pytest.raises(ValueError, match=r"unet.size_embedding_dim needs 'sizes'"):
        _loss(objective, without)


def test_sizes_that_nobody_measures_are_refused(tiny_folder):
    shape = {"transformer_layers": (0, 1), "num_heads": (1, 2), "context_dim": 16}
    unet = _unet(pooled_dim=16, size_embedding_dim=8, size_count=5, **shape)
    with pytest.raises(ValueError, match=r"unet.size_count=5 cannot be trained"):
        _objective(unet, load_folder(tiny_folder).text)


def test_pooled_text_needs_a_text_encoder():
    with pytest.raises(ValueError, match=r"unet.pooled_dim=16 is for pooled text, but there is no text encoder"):
        _objective(_unet(pooled_dim=16, size_embedding_dim=8))


@pytest.mark.parametrize("concat", ["", *CONCAT_CONDITIONS])
@pytest.mark.parametrize(("process", "kind"), [("vp", "v_prediction"), ("edm", "v_prediction"), ("flow", "flow")])
def test_previews_are_pictures(process, kind, concat):
    unet = _unet(in_channels=CHANNELS[concat], num_classes=350)
    objective = _objective(unet, process=process, prediction_type=kind, concat=concat, steps=2)
    with torch.no_grad():
        pictures = objective.preview(_cached(objective, _batch()), objective.trained_modules)["pictures"]
    assert pictures.shape == (4, 3, SIZE, SIZE) and pictures.isfinite().all()


@pytest.mark.parametrize(
    ("process", "kind", "scheduler"),
    [
        ("vp", "epsilon", "DDIMScheduler"),
        ("vp", "v_prediction", "DDIMScheduler"),
        ("vp", "sample", "DDIMScheduler"),
        ("edm", "v_prediction", "EDMEulerScheduler"),
        ("flow", "flow", "UniPCMultistepScheduler"),
    ],
)
def test_an_exported_model_says_how_it_was_trained_and_diffusers_draws_the_same(
    process, kind, scheduler, tiny_folder, tmp_path
):
    from diffusers import StableDiffusionPipeline

    settings = {"process": process, "prediction_type": kind, "zero_terminal_snr": kind == "v_prediction", "shift": 3.0}
    unet = _unet(transformer_layers=(0, 1), num_heads=(1, 2), context_dim=16)
    objective = _objective(unet, load_folder(tiny_folder).text, **settings)
    require_exportable(objective.config)
    write_model(objective, SIZE, torch.float32, tmp_path / "model", objective.trained_modules)
    parts = load_folder(tmp_path / "model")
    assert (parts.process, parts.prediction_type) == (DiffusionConfig(**settings).make_process(), kind)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert type(pipeline.scheduler).__name__ == scheduler
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = pipeline("red", latents=latents, num_inference_steps=5, guidance_scale=2.0, output_type="pt").images
    ours = LatentDiffusion(parts)("red", latents=latents, num_inference_steps=5, guidance_scale=2.0, output_type="pt")
    tolerance = 2e-2 if process == "flow" else 1e-4  # diffusers' UniPC tells the network whole timesteps
    torch.testing.assert_close(ours.images, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("process", "kind"), [("vp", "flow"), ("edm", "sample"), ("flow", "v_prediction")])
def test_what_diffusers_has_no_words_for_is_refused_before_the_training(process, kind):
    objective = _objective(_unet(), process=process, prediction_type=kind)
    with pytest.raises(ValueError, match=rf"process='{process}' with diffusion.prediction_type='{kind}'.*exported"):
        require_exportable(objective.config)


@pytest.mark.parametrize(
    ("concat", "kind", "pipeline"),
    [
        ("inpainting", INPAINTING, "StableDiffusionInpaintPipeline"),
        ("low_resolution", UPSCALING, "StableDiffusionUpscalePipeline"),
        ("edge", DEPTH, "StableDiffusionDepth2ImgPipeline"),
    ],
)
def test_a_concat_model_is_exported_as_its_kind(concat, kind, pipeline, tiny_folder, tmp_path):
    classes = 350 if concat == "low_resolution" else None
    unet = _unet(
        in_channels=CHANNELS[concat],
        num_classes=classes,
        transformer_layers=(0, 1),
        num_heads=(1, 2),
        context_dim=16,
    )
    objective = _objective(unet, load_folder(tiny_folder).text, concat=concat)
    write_model(objective, SIZE, torch.float32, tmp_path / "model", objective.trained_modules)
    parts = load_folder(tmp_path / "model")
    assert parts.kind == kind
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["_class_name"] == pipeline
    assert (parts.low_resolution and parts.low_resolution.max_noise_level) == (349 if classes else None)


def test_an_inpainting_model_opens_in_diffusers_inpainting_pipeline(tiny_folder, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    unet = _unet(in_channels=9, transformer_layers=(0, 1), num_heads=(1, 2), context_dim=16)
    objective = _objective(unet, load_folder(tiny_folder).text, concat="inpainting")
    write_model(objective, SIZE, torch.float32, tmp_path / "model", objective.trained_modules)
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    picture, mask = torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)
    drawn = pipeline("red", picture, mask, height=SIZE, width=SIZE, num_inference_steps=1, output_type="pt").images
    assert drawn.shape == (1, 3, SIZE, SIZE) and drawn.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"process": "vpp"}, "diffusion.process 'vpp'; did you mean 'vp'"),
        ({"time_sampling": "lognormal"}, "did you mean 'log"),
        ({"weighting": "uniform"}, "unknown diffusion.weighting 'uniform'"),
        ({"concat": "inpaint"}, "did you mean 'inpainting'"),
        ({"sampler": "dpmpp_2n"}, "unknown diffusion.sampler 'dpmpp_2n'"),
        ({"schedule": "karas"}, "unknown diffusion.schedule 'karas'"),
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon' contradicts zero_terminal_snr=True"),
        ({"prediction_type": "epsilon", "process": "flow"}, "prediction_type='epsilon' contradicts process=Flow"),
        ({"offset_noise": -1.0}, "diffusion.offset_noise=-1.0"),
        ({"pyramid_discount": 1.0}, "diffusion.pyramid_discount=1.0"),
        ({"condition_dropout": 1.0}, "diffusion.condition_dropout=1.0"),
        ({"time_std": 0.0}, "diffusion.time_std=0.0"),
        ({"noise_levels": 1001}, "diffusion.noise_levels=1001"),
        ({"process": "edm", "sigma_min": 100.0}, "sigma_min=100.0"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DiffusionConfig(**settings)
