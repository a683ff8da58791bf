"""Distillation on Gaussian data, whose denoiser is known: n steps of the student end where the teacher's N steps do."""

from functools import partial

import pytest
import torch
from gaussian import GaussianDenoiser, last, no_noise, normal
from tiny_networks import tiny_autoencoder, tiny_unet
from torch import Tensor, nn

from autoencoder.latent_format import LatentFormat
from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser, target, to_x0_eps
from ldm.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from ldm.networks.unet import UNetConfig
from ldm.process import DiscreteVP, Process, per_sample
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.distillation import METHODS, Answer, jump, leading_to, make_grids
from ldm.training.objectives.distillation import DistillationConfig, DistillationObjective
from ldm.training.objectives.latent_batches import FrozenParts, LatentBatches

ZERO_SNR = DiscreteVP(zero_terminal_snr=True)
KINDS = [(ZERO_SNR, "v_prediction"), (ZERO_SNR, "sample"), (DiscreteVP(), "epsilon"), (DiscreteVP(), "v_prediction")]
MEANS, STD = torch.tensor([0.7, -0.3, 0.0]), 0.5  # of two labels, and of no label
LABELS = UNetConfig(
    widths=(8,),
    blocks_per_level=1,
    transformer_layers=(0,),
    mid_transformer_layers=0,
    num_heads=(1,),
    context_dim=None,
    num_classes=3,
    norm_groups=4,
)


class ExactNetwork(nn.Module):
    """The network of data N(mean of the label, STD^2), for any prediction type."""

    def __init__(self, process: Process, prediction_type: str, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(shift))
        self.process, self.prediction_type = process, prediction_type

    def forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        alpha, sigma = (per_sample(level, x) for level in self.process.levels(time))
        mean = per_sample(MEANS[conditioning.labels], x) + self.weight
        centred = (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        levels = self.process.levels(time)
        return target(mean + alpha * STD**2 * centred, sigma * centred, *levels, self.prediction_type)


class AffineNetwork(nn.Module):
    """An output a x + b with numbers of its own for each time and label."""

    def __init__(self, times: int = 1000, labels: int = 2) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(labels, times, 2))

    def forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        slope, offset = self.table[conditioning.labels, time.long()].unbind(1)
        return per_sample(slope, x) * x + per_sample(offset, x)


def _objective(
    teacher: nn.Module, student: nn.Module, process: Process, kind: str, count: int = 1, **settings
) -> DistillationObjective:
    frozen = FrozenParts(tiny_autoencoder(), LatentFormat(factor=2))
    config = DistillationConfig(**settings)
    return DistillationObjective(
        teacher, student, LatentBatches(frozen, LABELS), process, kind, config, batch_size=count
    )


def _batch(n: int) -> dict:
    labels = torch.arange(n) % 2
    mean = MEANS[labels].reshape(n, 1, 1, 1).expand(n, 4, 2, 2)
    return {"mean": mean, "std": torch.full_like(mean, STD), "label": labels, "index": torch.arange(n)}


def _generators(n: int) -> list[torch.Generator]:
    return [generator_for(0, i, 1) for i in range(n)]


def _fit(objective: DistillationObjective, batch: dict, rounds: int) -> None:
    """Minimise the objective by its own gradient; a target that moves with the student is approached in rounds."""
    network = objective.trained_modules["unet"]
    for _ in range(rounds):
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure(optimizer=optimizer) -> float:
            optimizer.zero_grad()
            loss = objective.loss("unet", batch, _generators(len(batch["index"])), 0)["loss"]
            loss.backward()
            return loss.item()

        optimizer.step(closure)


class OtherWay(LatentBatches):
    """Reads label 0 as 1 and 1 as 0."""

    def conditioning(self, batch, dropped, generators, device) -> Conditioning:
        return super().conditioning({**batch, "label": 1 - batch["label"]}, dropped, generators, device)


@pytest.mark.parametrize("method", ["guidance", "progressive", "consistency"])
def test_a_teacher_can_read_in_another_way_than_its_student(method):
    """A student that knows what the teacher knows has nothing to learn if both read alike, and only then."""
    process, kind = KINDS[0]
    frozen = FrozenParts(tiny_autoencoder(), LatentFormat(factor=2))
    straight, other = LatentBatches(frozen, LABELS), OtherWay(frozen, LABELS)
    config = DistillationConfig(method, guidance_scale=1.0, teacher_steps=4, student_steps=4)

    def loss(batches: LatentBatches, read_by_teacher: LatentBatches | None) -> float:
        networks = ExactNetwork(process, kind), ExactNetwork(process, kind)
        objective = DistillationObjective(*networks, batches, process, kind, config, read_by_teacher)
        return objective.loss("unet", _batch(16), _generators(16), 0)["loss"].item()

    assert loss(straight, None) == pytest.approx(loss(other, other), abs=1e-6) and loss(straight, None) < 1e-2
    assert loss(straight, other) > 10 * loss(straight, None) + 0.05


@pytest.mark.parametrize("huber", [0.0, 0.5])
@pytest.mark.parametrize(("process", "kind"), KINDS)
@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_n_fitted_steps_end_where_the_guided_teachers_n_k_steps_do(method, process, kind, huber):
    steps, scale, count = {"teacher_steps": 8, "student_steps": 4}, 2.0, 128
    teacher, student = ExactNetwork(process, kind), AffineNetwork()
    objective = _objective(
        teacher, student, process, kind, count, method=method, guidance_scale=scale, huber=huber, **steps
    )
    _fit(objective, _batch(count), rounds=1 if method == "progressive" else 4)
    x, labels = normal(2, 4, 2, 2), torch.tensor([0, 1])
    guided = ClassifierFreeGuidance(
        NetworkDenoiser(teacher, process, kind, Conditioning(labels=labels)),
        Conditioning(labels=torch.tensor([2, 2])),
        scale,
    )
    expected = last(SAMPLERS["ddim"](guided, x, make_grid("trailing", process, 8), no_noise))
    alone = NetworkDenoiser(student, process, kind, Conditioning(labels=labels))
    found = last(SAMPLERS["ddim"](alone, x, make_grid("trailing", process, 4), no_noise))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    few = last(SAMPLERS["ddim"](guided, x, make_grid("trailing", process, 4), no_noise))
    assert (few - expected).abs().max() > 0.02, "the teacher in as few steps ends elsewhere"


@pytest.mark.parametrize("quantile", [1e-12, 0.31, 1 - 1e-12])
@pytest.mark.parametrize(("scale", "eta"), [(1.0, 1.0), (4.0, 1.0), (4.0, 0.0), (3.0, 0.4)])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_guidance_is_distilled_from_what_the_guidance_module_answers(kind, scale, eta, quantile):
    torch.manual_seed(0)
    teacher, student, n = tiny_unet(3), tiny_unet(3), 3
    objective = _objective(teacher, student, ZERO_SNR, kind, method="guidance", guidance_scale=scale, apg_eta=eta)
    batch = {**_batch(n), "mean": normal(n, 4, 8, 8), "std": normal(n, 4, 8, 8, seed=1).abs()}
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        errors = objective.errors(
            batch, {"unet": student}, _generators(n), torch.full((n,), quantile, dtype=torch.float64)
        )
        time = float(int(quantile * 1000))
        x, levels = seen[0], ZERO_SNR.levels(time)
        denoise = NetworkDenoiser(teacher, ZERO_SNR, kind, Conditioning(labels=batch["label"]))
        empty = Conditioning(labels=torch.full((n,), 2))
        if eta == 1:
            guided = ClassifierFreeGuidance(denoise, empty, scale)(x, time)
        else:
            guided = AdaptiveProjectedGuidance(denoise, empty, scale, eta, rescale=0.0, momentum=0.0)(x, time)
        own = NetworkDenoiser(student, ZERO_SNR, kind, Conditioning(labels=batch["label"]))(x, time)
        velocities = [target(each.x0, each.eps, *levels, "v_prediction") for each in (own, guided)]
    expected = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-6)
    assert errors.isfinite().all() and errors.min() > 1e-4


@pytest.mark.parametrize("method", ["guidance", "model_guidance"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_with_the_data_in_it_a_wrong_teacher_only_guides(kind, method):
    """Fitted to many samples, the student answers the data's own mean with the teacher's guidance on top.

    The teacher's means are both .4 too high, so its guidance is right and its answers are not.
    """
    process, scale, count, quantile = DiscreteVP(), 3.0, 4096, 0.6
    teacher, student, exact = ExactNetwork(process, kind, shift=0.4), AffineNetwork(), ExactNetwork(process, kind)
    objective = _objective(teacher, student, process, kind, count, method=method, guidance_scale=scale)
    quantiles = torch.full((count,), quantile, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective.errors(_batch(count), {"unet": student}, _generators(count), quantiles).mean()
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    x, labels, time = normal(2, 4, 8, 8), torch.tensor([0, 1]), quantile * 1000
    empty = Conditioning(labels=torch.tensor([2, 2]))

    def guided(network: nn.Module) -> Tensor:
        denoise = NetworkDenoiser(network, process, kind, Conditioning(labels=labels))
        return ClassifierFreeGuidance(denoise, empty, scale)(x, time).x0

    found = NetworkDenoiser(student, process, kind, Conditioning(labels=labels))(x, time).x0
    expected = guided(exact if method == "model_guidance" else teacher)
    assert (guided(exact) - guided(teacher)).abs().mean() > 0.2
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_students_of_every_prediction_type_have_the_same_loss(method):
    process, n = DiscreteVP(), 16
    losses = []
    for kind in ("epsilon", "v_prediction", "sample", "flow"):
        teacher, student = ExactNetwork(process, kind), ExactNetwork(process, kind, shift=0.3)
        objective = _objective(teacher, student, process, kind, n, method=method)
        losses.append(objective.loss("unet", _batch(n), _generators(n), 0)["loss"].item())
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4) and losses[0] > 1e-3


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
@pytest.mark.parametrize("method", METHODS)
def test_at_pure_noise_targets_have_their_limits(method, kind):
    """At alpha = 0 the noise is x itself, and the picture is what the steps on from there say."""
    exact = GaussianDenoiser(ZERO_SNR, mean=0.7, std=STD)
    network = ExactNetwork(ZERO_SNR, kind)
    answer = partial(_answer, network, ZERO_SNR, kind)
    x, top = normal(2, 4, 2, 2), torch.full((2,), 1 - 1e-12, dtype=torch.float64)
    made = METHODS[method](ZERO_SNR, 8, 4)
    assert made.times(top).tolist() == [ZERO_SNR.start] * 2
    with torch.no_grad():
        x0, eps = made.target(x, top, answer, answer)
    torch.testing.assert_close(eps, x)
    if method in ("guidance", "model_guidance"):
        expected = exact(x, ZERO_SNR.start).x0
    else:
        grid, landed = make_grid("trailing", ZERO_SNR, 8), x
        for now, then in zip(grid[:2].tolist(), grid[1:3].tolist(), strict=True):
            prediction, (alpha, sigma) = exact(landed, now), exact.levels(then)
            landed = alpha * prediction.x0 + sigma * prediction.eps
        expected = (landed - sigma * x) / alpha
    torch.testing.assert_close(x0, expected, rtol=1e-5, atol=1e-5)
    student = AffineNetwork()
    objective = _objective(network, student, ZERO_SNR, kind, method=method)
    objective.errors(_batch(2), {"unet": student}, _generators(2), top).mean().backward()
    assert student.table.grad is not None and student.table.grad.isfinite().all()


def _answer(network: nn.Module, process: Process, kind: str, x: Tensor, time: Tensor) -> Answer:
    output = network(x, time, Conditioning(labels=torch.zeros(len(x), dtype=torch.long)))
    return to_x0_eps(output, x, *process.levels(time), kind)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_jump_to_where_one_is_moves_nothing_whatever_the_network_answers(kind):
    process, x, time = DiscreteVP(), normal(3, 4, 2, 2), torch.tensor([3.0, 500.0, 998.0], dtype=torch.float64)
    answer = to_x0_eps(normal(3, 4, 2, 2, seed=5), x, *process.levels(time), kind)
    torch.testing.assert_close(jump(answer, process, time), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", [DiscreteVP(), ZERO_SNR], ids=["vp", "zero_snr"])
def test_the_last_point_of_a_phase_learns_from_the_teacher_alone(process):
    """The boundary condition: there the student of the target is not looked at, not even if it is no number."""
    teacher = partial(_answer, ExactNetwork(process, "v_prediction"), process, "v_prediction")
    made = METHODS["consistency"](process, 8, 4)
    x, last_points = normal(4, 4, 2, 2), 1 - (torch.arange(1, 8, 2, dtype=torch.float64) + 0.5) / 8
    with torch.no_grad():
        found = made.target(x, last_points, teacher, lambda x, time: (x * torch.nan, x * torch.nan))
        expected = teacher(x, made.times(last_points))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process", [DiscreteVP(), DiscreteVP(final_alpha_one=False), ZERO_SNR])
def test_leading_to_is_the_inverse_of_a_jump(process):
    grid = make_grid("trailing", process, 20)
    x, landed = normal(20, 4, 2, 2), normal(20, 4, 2, 2, seed=1)
    answer = leading_to(landed, grid[1:], x, grid[:-1], process)
    torch.testing.assert_close(jump(answer, process, grid[1:]), landed, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(jump(answer, process, grid[:-1]), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("teacher", "student", "near"), [(10, 4, 8), (2, 4, 4), (240, 16, 224)])
def test_steps_that_do_not_fit_each_other_are_refused(teacher, student, near):
    with pytest.raises(ValueError, match=rf"teacher_steps={teacher} .*student_steps={student}.* e.g. {near}$"):
        make_grids(ZERO_SNR, teacher, student)
    make_grids(ZERO_SNR, near, student)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "progresive"}, "did you mean 'progressive'"),
        ({"teacher_steps": 0}, "distillation.teacher_steps=0 must be at least 1"),
        ({"student_steps": -1}, "distillation.student_steps=-1 must be at least 1"),
        ({"huber": -0.1}, "distillation.huber=-0.1 is negative"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**settings)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_weight_under_autocast(method):
    """Also where the student runs without gradients for its target: autocast may keep copies of weights."""
    torch.manual_seed(0)
    n, student = 4, tiny_unet(3)
    objective = _objective(tiny_unet(3), student, ZERO_SNR, "v_prediction", n, method=method)
    batch = {**_batch(n), "mean": normal(n, 4, 8, 8), "std": torch.zeros(n, 4, 8, 8)}
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss("unet", batch, _generators(n), 0)["loss"]
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
