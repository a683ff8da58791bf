"""What `ldm train plan` predicts is what a training then holds, writes and computes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkout import CONFIGS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip.bpe import train_bpe
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.training.contrastive import ClipConfig, ClipObjective
from conditioning.training.image_tokens import ImageTokenConfig, ImageTokenObjective
from conditioning.training.teacher import PACKAGE_WIDTH, TeacherTable
from ldm.cli import app
from ldm.io.folder.load import load_text
from ldm.io.locate import find_model
from ldm.networks.restorer.config import RestorerConfig
from ldm.networks.restorer.model import Restorer
from ldm.networks.unet import UNet, UNetConfig
from ldm.training.config import LoopConfig
from ldm.training.estimate.estimate import Hardware, PlannedNetwork, describe, estimate_training, fit_line
from ldm.training.estimate.measure import measure_tflops
from ldm.training.objectives.base import Objective
from ldm.training.objectives.latent_diffusion import DiffusionConfig, FrozenParts, LatentDiffusionObjective
from ldm.training.objectives.restorer import RestorerObjective
from ldm.training.optimization.moments import moment_bytes
from ldm.training.optimization.optimizers import build_optimizers
from ldm.training.optimization.trained_module import TrainedModule
from ldm.training.stages.clip import ClipRun
from ldm.training.stages.config_file import load_run
from ldm.training.stages.datasets import DataConfig
from ldm.training.stages.image_tokens import ImageTokenRun
from ldm.training.stages.latent_diffusion import LatentDiffusionRun
from ldm.training.stages.restorer import RestorerRun

_UNET = UNetConfig(
    widths=(16, 32),
    blocks_per_level=2,
    transformer_layers=(0, 3),
    num_heads=(2, 2),
    context_dim=8,
    norm_groups=8,
    num_classes=11,
    class_tokens=True,
)
_LOOP = LoopConfig(batch_size=8, micro_batch_size=4, samples=80, ema_more=(8.0,), precision="fp32", lr_shape="constant")
_RUN = LatentDiffusionRun(output="runs/x", data=DataConfig(size=64), unet=_UNET, loop=_LOOP)
_CPU = Hardware(on_gpu=False)


def _module_name(checkpointing: bool) -> tuple[TrainedModule, LatentDiffusionObjective]:
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8, 8), norm_groups=4))
    parts = FrozenParts(autoencoder, LatentFormat())
    objective = LatentDiffusionObjective(UNet(_UNET), parts, DiffusionConfig())
    config = replace(_LOOP, gradient_checkpointing=checkpointing)
    return TrainedModule.build("unet", objective.trained_modules["unet"], config), objective


@contextmanager
def _held_by(module: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """What autograd keeps meanwhile beside the weights of `module`."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield held


def _bytes(held: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in held.values())


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def _held_in_a_step(checkpointing: bool) -> tuple[TrainedModule, int]:
    """A module after a real step of the real objective, and the bytes that autograd held in its forward pass."""
    module_name, objective = _module_name(checkpointing)
    batch = {"index": torch.arange(4), "label": torch.arange(4)}
    batch |= {"mean": torch.randn(4, 4, 16, 16), "std": torch.zeros(4, 4, 16, 16)}
    module_name.update.start(1e-3)
    with _held_by(module_name.module) as held:
        loss = objective.loss("unet", batch, _generators(4), 0)["loss"]
    size = _bytes(held)
    loss.backward()
    module_name.step(module_name.update.norm(), 1.0, 8, 8)
    return module_name, size


@pytest.mark.slow
def test_memory_of_a_real_step_is_the_predicted():
    memory = estimate_training(_RUN, _CPU, factor=4).networks[0].memory
    module_name, activations = _held_in_a_step(checkpointing=False)
    parameters = list(module_name.module.parameters())
    moments = [value for state in module_name.optimizers[0].state.values() for value in state.values() if value.ndim]
    averages = [p for average in module_name.averages for p in average.module.parameters()]
    for predicted, real in (
        (memory.weights, parameters),
        (memory.gradients, [p.grad for p in parameters]),
        (memory.moments, moments),
        (memory.averages, averages),
    ):
        assert predicted == sum(tensor.nbytes for tensor in real)
    assert len(module_name.averages) == 2
    assert memory.activations == pytest.approx(activations, rel=0.05)
    _, inputs = _held_in_a_step(checkpointing=True)
    assert inputs <= memory.checkpointed < 0.7 * memory.activations
    assert memory.with_averages - memory.full == memory.averages
    assert memory.with_averages - memory.with_checkpointing == memory.activations - memory.checkpointed


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_moments_are_those_of_a_real_optimizer(optimizer: str) -> None:
    unet = UNet(_UNET)
    optimizers = build_optimizers(unet, replace(_LOOP, optimizer=optimizer))
    for parameter in unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    for each in optimizers:
        each.step()
    states = [value for each in optimizers for state in each.state.values() for value in state.values()]
    kept = sum(value.nbytes for value in states if value.ndim or value.numel() > 1)
    scalars = 4 * sum(1 for parameter in unet.parameters() if parameter.ndim == 0) * 2
    assert kept <= moment_bytes(unet, optimizer) <= kept + scalars


def test_8_bit_moments_are_bytes_with_a_scale_for_each_block() -> None:
    """bitsandbytes: `Optimizer2State.init_state`, blocks of 256, fp32 below 4096 numbers."""
    large, small = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(63, 65, bias=False)
    assert moment_bytes(large, "adamw8bit") == 2 * (4096 + 4 * 16)
    assert moment_bytes(small, "adamw8bit") == 8 * 63 * 65


@pytest.mark.slow
def test_what_does_not_fit_gets_the_cheapest_change_that_makes_it_fit() -> None:
    plan = estimate_training(_RUN, _CPU, factor=4)
    held = plan.networks[0].memory.with_averages / 1e9
    for share, said in ((1.01, "fits"), (0.99, "loop.micro_batch_size=2"), (1e-6, "whatever loop says")):
        hardware = replace(_CPU, gigabytes=held * share)
        assert said in fit_line(plan, _RUN, hardware, factor=4)
    smaller = estimate_training(replace(_RUN, loop=replace(_LOOP, micro_batch_size=2)), _CPU, factor=4)
    needed = smaller.networks[0].memory.with_averages / 1e9
    for share, fits in ((1 + 1e-9, True), (1 - 1e-9, False)):  # what the change needs is what its own plan says
        line = fit_line(plan, _RUN, replace(_CPU, gigabytes=needed * share), factor=4)
        assert line.endswith("loop.micro_batch_size=2") == fits, line


@pytest.mark.slow
def test_parts_hold_their_share_and_replicas_everything():
    one, replicas, parts = (
        estimate_training(_RUN, replace(_CPU, processes=processes, sharded=sharded), factor=4).networks[0].memory
        for processes, sharded in ((1, False), (2, False), (2, True))
    )
    assert (replicas.weights, replicas.moments, replicas.averages) == (one.weights, one.moments, one.averages)
    assert (one.buckets, replicas.buckets) == (0, one.gradients)
    for name in ("weights", "gradients", "moments", "averages"):
        share = getattr(parts, name) / getattr(one, name)
        assert 0.5 <= share < 0.51, name  # tensors of odd length are not halved exactly


@pytest.mark.slow
def test_disk_is_what_the_files_take(tmp_path):
    from ldm.training.checkpoints.checkpoint import TrainingProgress, save_checkpoint

    module_name, _ = _held_in_a_step(checkpointing=False)
    save_checkpoint(tmp_path, {"unet": module_name}, TrainingProgress(samples_seen=8), _RUN)
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert estimate_training(_RUN, _CPU, factor=4).checkpoint_bytes == pytest.approx(
        written, rel=0.2
    )  # files have headers
    assert estimate_training(_RUN, _CPU, factor=4).checkpoint_bytes <= written


def test_arithmetic_of_a_convolution_is_its_closed_form():
    """Without blocks and attention there are few layers: their products are counted by hand."""
    unet = UNetConfig(
        widths=(8,),
        blocks_per_level=1,
        transformer_layers=(0,),
        mid_transformer_layers=0,
        num_heads=(1,),
        context_dim=None,
        norm_groups=4,
    )
    pixels, time = 8 * 8, 32
    layers = [(4, 8, 9), (8, 8, 9), (8, 8, 9)]  # conv_in, the block below
    layers += [(8, 8, 9)] * 2  # the middle's one block
    layers += [(16, 8, 9), (8, 8, 9), (16, 8, 1)] * 2  # two blocks above, with their shortcuts
    layers += [(8, 4, 9)]
    products = sum(2 * i * o * k * pixels for i, o, k in layers)
    products += 2 * (8 * time + time * time) + 2 * 4 * time * 8  # the time, and its projection in four blocks
    run = LatentDiffusionRun(output="x", data=DataConfig(size=32), unet=unet, loop=_LOOP)
    found = estimate_training(run, _CPU, factor=4).networks[0]
    assert found.forward_flops == products
    assert 1.8 * products < found.backward_flops <= 2 * products  # nobody asks for the input's gradient


@pytest.mark.slow
def test_blocks_that_are_traced_once_count_as_often_as_they_come():
    (network,) = _RUN.networks(factor=4)
    with torch.device("meta"):
        unet = network.build()
    with FlopCounterMode(display=False) as counter:
        loss = network.run(unet, 1, torch.device("meta"))
        forward = counter.get_total_flops()
        loss.backward()
    found = estimate_training(_RUN, _CPU, factor=4).networks[0]
    assert (found.forward_flops, found.backward_flops) == (forward, counter.get_total_flops() - forward)


def _assert_planned(found: PlannedNetwork, objective: Objective, batch: dict, samples_seen: int = 0) -> None:
    """What is planned for a trained module is what it has, and what its loss of a batch keeps."""
    module = objective.trained_modules[found.name]
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.memory.weights == sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    with _held_by(module) as held:
        objective.loss(found.name, batch, _generators(4), samples_seen)
    assert found.memory.activations == pytest.approx(_bytes(held), rel=0.05)
    assert found.forward_flops > 0 and found.backward_flops > 0


def test_clip_is_planned_with_texts_of_full_length(tmp_path):
    words = "a red fox left of one blue rocket " * 4
    train_bpe([words], 600, tmp_path, max_tokens=14)
    tokenizer = ClipTokenizer.from_folder(tmp_path)
    shape = {"text_width": 32, "text_layers": 2, "image_width": 32, "image_layers": 2, "image_heads": 2}
    config = ClipConfig(len(tokenizer), 16, hard_negatives=1.0, sentences=0.5, image_size=32, text_heads=2, **shape)
    table = TeacherTable([words], np.zeros((1, PACKAGE_WIDTH), np.float16))
    objective = ClipObjective(config, tokenizer, [words], table)
    plan = estimate_training(ClipRun(output="x", clip=config, loop=_LOOP), _CPU)
    batch = {"image": torch.zeros(4, 3, 32, 32), "caption": [words] * 4}
    _assert_planned(plan.networks[0], objective, batch)
    run = ClipRun(output="x", clip=config, loop=_LOOP)
    assert "clip.vocab_size" in plan.networks[0].note and plan.networks[0].note in describe(plan, run, _CPU)


def test_a_sketching_tower_is_planned_as_its_folder_says():
    run = ImageTokenRun(output="x", text="emoji", image_tokens=ImageTokenConfig(feed_forward=3072), loop=_LOOP)
    objective = ImageTokenObjective(load_text(find_model("emoji")), run.image_tokens)
    batch = {"image": torch.zeros(4, 3, 64, 64), "caption": ["a fox"] * 4}
    _assert_planned(estimate_training(run, _CPU).networks[0], objective, batch)


def test_a_restorer_is_planned():
    run = RestorerRun(
        output="x", restorer=RestorerConfig(widths=(8, 16), encoder_blocks=(1,), decoder_blocks=(1,)), loop=_LOOP
    )
    objective = RestorerObjective(Restorer(run.restorer), run.loss)
    kinds = len(run.restorer.kinds)
    batch = {"damaged": torch.ones(4, 3, 64, 64), "clean": torch.zeros(4, 3, 64, 64)}
    batch |= {"conditions": torch.zeros(4, 2 * kinds), "strength": torch.zeros(4, kinds)}
    _assert_planned(estimate_training(run, _CPU).networks[0], objective, batch)


@pytest.mark.slow
def test_hours_rate_and_price_follow_from_each_other():
    known = estimate_training(_RUN, Hardware(processes=4, tflops=2.0, price=3.0), factor=4)
    assert known.hours == pytest.approx(known.flops_per_sample * 80 / (2e12 * 4) / 3600)
    assert known.samples_per_second == pytest.approx(80 / (known.hours * 3600))
    assert known.cost == pytest.approx(known.hours * 3.0 * 4)
    load_options = estimate_training(_RUN, Hardware(processes=4, hours=known.hours), factor=4)
    assert load_options.tflops_per_device == pytest.approx(2.0)
    again = replace(_RUN, loop=replace(_LOOP, gradient_checkpointing=True))
    network = known.networks[0]
    assert estimate_training(again, _CPU, factor=4).flops_per_sample - known.flops_per_sample == network.forward_flops


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, "--processes 0 must be at least 1"),
        ({"hours": -1.0}, "--hours -1 is negative"),
        ({"sharded": True}, "--sharded splits among several processes"),
    ],
)
def test_wrong_hardware_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Hardware(**settings)


def test_runs_that_cannot_be_planned_are_refused():
    with pytest.raises(ValueError, match=r"loop\.batch_size=8 does not divide among 3 processes"):
        estimate_training(_RUN, Hardware(processes=3))
    with pytest.raises(FileNotFoundError, match="text: model 'not/there/yet' is neither shipped nor a folder"):
        estimate_training(ImageTokenRun(output="x", text="not/there/yet"), _CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl-f16", "vq-f8"])
def test_autoencoders_are_planned_with_their_discriminators(name):
    run = load_run(CONFIGS / "autoencoder" / f"{name}.yaml", ["data.size=64", "loop.micro_batch_size=1"])
    plan = estimate_training(run, _CPU)
    assert [network.name for network in plan.networks] == ["autoencoder", "discriminator"]
    assert all(network.memory.activations > 0 and network.forward_flops > 0 for network in plan.networks)
    assert plan.networks[0].memory.checkpointed < plan.networks[0].memory.activations


@pytest.mark.slow
def test_command_needs_neither_weights_nor_data():
    options = ["--processes", "8", "--sharded", "--hours", "100", "--price", "2.5", "--factor", "8"]
    config = [str(CONFIGS / "sd15.yaml"), "data.size=64"]
    found = CliRunner().invoke(app, ["train", "plan", *config, *options, "--json"])
    assert found.exit_code == 0, found.output
    plan = json.loads(found.output)
    assert plan["networks"][0]["parameters"] == 859_520_964
    assert plan["cost"] == pytest.approx(100 * 2.5 * 8)
    assert plan["tflops_per_device"] > 0
    shown = CliRunner().invoke(app, ["train", "plan", *config, "--tflops", "0.3", "--cpu"])
    assert "859,520,964 parameters" in shown.output and "time: " in shown.output


def test_measured_arithmetic_is_what_the_passes_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law: samples x operations of one / seconds of the fastest pass."""
    now = iter([0.0, 9.0, 10.0, 14.0, 20.0, 22.0, 30.0, 33.0])  # starts and ends: 9 s to warm up, then 4, 2 and 3
    monkeypatch.setattr("ldm.training.estimate.measure.time.perf_counter", lambda: next(now))
    network = estimate_training(_RUN, _CPU, factor=4).networks[0]
    expected = 2 * (network.forward_flops + network.backward_flops) / 2.0 / 1e12
    assert measure_tflops(_RUN, samples=2, on_gpu=False, factor=4) == pytest.approx(expected)


def test_what_does_not_fit_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.training.estimate.measure.free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"--measure: unet needs some .* and 1 kB are free"):
        measure_tflops(_RUN, samples=2, on_gpu=False, factor=4)
