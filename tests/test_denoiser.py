"""Denoisers: the four prediction types say the same thing in four ways."""

import re

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from torch import nn
from unet_twins import SD1, inputs, run_twin, twins

from conditioning.bundle import Conditioning
from ldm.denoiser import PREDICTION_TYPES, NetworkDenoiser, check_prediction_type, target, to_x0_eps
from ldm.engine.eager import EagerEngine
from ldm.guidance.chain import NetworkPass, predict_all
from ldm.networks.options import PLAIN, NetworkOptions, Residuals
from ldm.process import EDM, DiscreteVP, Flow, Process

PROCESSES = {"vp": DiscreteVP(), "vp_zero_snr": DiscreteVP(zero_terminal_snr=True), "flow": Flow(2.0), "edm": EDM()}


def pair(seed: int = 0, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two independent random batches."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(batch, 4, 5, 6, generator=generator) for _ in range(2))
    return x0, noise


def test_there_are_four_prediction_types():
    assert set(PREDICTION_TYPES) == {"epsilon", "v_prediction", "sample", "flow"}


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("name", PROCESSES)
def test_target_then_x0_and_eps_gives_them_back(name: str, kind: str):
    process, (x0, noise) = PROCESSES[name], pair()
    times = process.time_of_index(torch.tensor([300.0, 600.0, 850.0]))
    alpha, sigma = process.levels(times)
    x = process.add_noise(x0, noise, times)
    got = to_x0_eps(target(x0, noise, alpha, sigma, kind), x, alpha, sigma, kind)
    torch.testing.assert_close(got, (x0, noise), rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
@pytest.mark.parametrize("name", ["vp_zero_snr", "flow"])
def test_pure_noise_is_no_exception(name: str, kind: str):
    process, (x0, noise) = PROCESSES[name], pair()
    x = process.add_noise(x0, noise, process.start)
    got = to_x0_eps(target(x0, noise, 0.0, 1.0, kind), x, 0.0, 1.0, kind)
    torch.testing.assert_close(got, (x0, noise))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_any_output_keeps_x_equal_to_alpha_x0_plus_sigma_eps(kind: str):
    output, x = pair()
    x0, eps = to_x0_eps(output, x, 0.6, 0.9, kind)
    torch.testing.assert_close(0.6 * x0 + 0.9 * eps, x)


def test_v_target_is_diffusers_velocity():
    x0, noise = pair()
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    times = torch.tensor([3, 500, 990])
    wanted = scheduler.get_velocity(x0, noise, times)
    torch.testing.assert_close(target(x0, noise, *DiscreteVP().levels(times), "v_prediction"), wanted)


def test_v_in_edm_coordinates_is_diffusers_euler():
    output, x = pair()
    scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(10)
    scheduler.is_scale_input_called = True
    wanted = scheduler.step(output, scheduler.timesteps[0], x).pred_original_sample
    got, _ = to_x0_eps(output, x, 1.0, scheduler.sigmas[0].item(), "v_prediction")
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (DiscreteVP(zero_terminal_snr=True), ["prediction_type='epsilon'", "zero_terminal_snr=True"]),
        (Flow(), ["prediction_type='epsilon'", "process=Flow"]),
    ],
)
def test_epsilon_where_the_start_is_pure_noise_names_both_fields(process: Process, words: list[str]):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        NetworkDenoiser(lambda x, time, conditioning: x, process, "epsilon")
    assert all(word in str(error.value) for word in words), error.value


def test_epsilon_is_welcome_elsewhere():
    check_prediction_type("epsilon", DiscreteVP())
    check_prediction_type("epsilon", EDM())


def test_unknown_prediction_type_offers_the_nearest():
    with pytest.raises(ValueError, match="unknown prediction_type 'v-prediction'; did you mean 'v_prediction'"):
        NetworkDenoiser(lambda x, time, conditioning: x, DiscreteVP(), "v-prediction")


@pytest.mark.parametrize("name", PROCESSES)
def test_network_gets_scaled_input_model_time_and_conditioning(name: str):
    process, (x, _) = PROCESSES[name], pair()
    told, other = (Conditioning(labels=torch.tensor([label] * 3)) for label in (1, 2))
    heard = []

    def network(x, time, conditioning):
        heard.append((x, time, conditioning))
        return x

    denoise = NetworkDenoiser(network, process, "v_prediction", told)
    t = process.time_of_index(123.5).item()
    denoise(x, t)
    denoise.predict(x, t, [other])
    torch.testing.assert_close(heard[0][0], process.scale_input(x, t))
    torch.testing.assert_close(heard[0][1], torch.full((3,), process.model_time(t).item()))
    assert heard[0][1].dtype == torch.float32
    assert heard[0][2] is told and heard[1][2] is other


class HalfNetwork(nn.Module):
    """A convolution in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, dtype=torch.bfloat16)

    def forward(self, x, time, conditioning):
        assert x.dtype == torch.bfloat16 and time.dtype == torch.float32
        return self.conv(x)


def test_network_runs_in_its_own_precision_and_the_record_is_float32():
    x, _ = pair()
    prediction = NetworkDenoiser(HalfNetwork(), DiscreteVP(), "v_prediction")(x, 500.0)
    assert prediction.x0.dtype == prediction.eps.dtype == torch.float32
    alpha, sigma = (level.item() for level in DiscreteVP().levels(500.0))
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)


def test_ask_answers_several_conditionings_in_one_call():
    x, _ = pair()
    batches = []

    def network(x, time, conditioning):
        batches.append(len(x))
        return x * conditioning.labels[:, None, None, None]

    own, other = (Conditioning(labels=torch.tensor([label] * 3)) for label in (1, 2))
    denoise = NetworkDenoiser(network, DiscreteVP(), "v_prediction", own)
    answers = denoise.predict(x, 500.0, [other, None, other])
    assert batches == [9]
    torch.testing.assert_close(answers[1].x0, denoise(x, 500.0).x0)
    torch.testing.assert_close(answers[0].x0, denoise.predict(x, 500.0, [other])[0].x0)
    assert torch.equal(answers[0].x0, answers[2].x0) and not torch.equal(answers[0].x0, answers[1].x0)


def test_a_network_without_a_hook_is_refused_by_name_only_when_a_hook_is_requested():
    x, _ = pair()
    denoise = NetworkDenoiser(HalfNetwork(), DiscreteVP(), "v_prediction")
    denoise.predict(x, 500.0, [None], [PLAIN])
    assert denoise.self_attention_layers == ()
    with pytest.raises(ValueError, match="HalfNetwork takes none"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(hook=lambda layer, q, k, v, mask: v)])
    with pytest.raises(ValueError, match="1 options for 2 conditionings"):
        denoise.predict(x, 500.0, [None, None], [PLAIN])


def side_network(seed: int):
    """What a ControlNet would add to `SD1` of unet_twins at 16 x 16, for three pictures."""
    draw = torch.Generator().manual_seed(seed)
    down = [(8, 16)] * 3 + [(8, 8)] + [(16, 8)] * 2 + [(16, 4)] * 3 + [(16, 2)] * 3
    skips = tuple(torch.randn(3, channels, size, size, generator=draw) for channels, size in down)
    return Residuals(skips, torch.randn(3, 16, 2, 2, generator=draw))


def test_each_pass_has_the_residuals_of_its_own():
    ours, theirs = twins(SD1)
    x, _, conditioning = inputs(SD1)
    denoise = NetworkDenoiser(ours.requires_grad_(False), DiscreteVP(), "epsilon", conditioning)
    first, second = side_network(1), side_network(2)
    predictions = denoise.predict(x, 500.0, [None] * 3, [NetworkOptions(each) for each in (first, None, second)])
    for prediction, residuals in zip(predictions, (first, None, second), strict=True):
        added = (
            {}
            if residuals is None
            else {
                "down_block_additional_residuals": residuals.down,
                "mid_block_additional_residual": residuals.mid,
            }
        )
        expected = run_twin(theirs.requires_grad_(False), x, torch.full((3,), 500.0), conditioning, **added)
        torch.testing.assert_close(prediction.eps, expected, atol=1e-5, rtol=1e-5)
    (alone,) = denoise.predict(x, 500.0, [None], [NetworkOptions(first)])
    torch.testing.assert_close(alone.eps, predictions[0].eps, atol=1e-5, rtol=1e-5)


def test_guidance_passes_residuals_on_pass_by_pass():
    ours, _ = twins(SD1)
    x, _, conditioning = inputs(SD1)
    denoise, extra = NetworkDenoiser(ours.requires_grad_(False), DiscreteVP(), "epsilon", conditioning), side_network(1)
    plain, changed = NetworkPass(denoise), NetworkPass(denoise, options=NetworkOptions(extra))
    predictions = predict_all(x, 500.0, [plain, changed])
    torch.testing.assert_close(predictions[plain].eps, denoise(x, 500.0).eps, atol=1e-5, rtol=1e-5)
    (expected,) = denoise.predict(x, 500.0, [None], [NetworkOptions(extra)])
    torch.testing.assert_close(predictions[changed].eps, expected.eps, atol=1e-5, rtol=1e-5)


class BareEngine(EagerEngine):
    """Hosts nothing, and counts its networks."""

    name = "bare"
    hosts = frozenset()
    made = 0

    def network(self, backbone):
        self.made += 1
        return lambda x, time, conditioning, options: backbone(x, time, conditioning)


def test_what_an_engine_cannot_host_is_refused_by_name():
    ours, _ = twins(SD1)
    x, _, conditioning = inputs(SD1)
    engine = BareEngine()
    denoise = NetworkDenoiser(ours.requires_grad_(False), DiscreteVP(), "epsilon", conditioning, engine=engine)
    plain = NetworkDenoiser(ours, DiscreteVP(), "epsilon", conditioning)
    assert torch.equal(denoise(x, 500.0).eps, plain(x, 500.0).eps) and engine.made == 1
    with pytest.raises(ValueError, match=r"PAG.*the bare engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(hook=lambda layer, q, k, v, mask: v)])
    with pytest.raises(ValueError, match=r"ControlNet.*the bare engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(side_network(1))])
    with pytest.raises(ValueError, match="2 options for 1 conditionings"):
        plain.predict(x, 500.0, [None], [PLAIN, PLAIN])
