"""What `ldm train plan` predicts is what a training then holds, writes and computes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from ldm.cli import app
from ldm.training.config import LoopConfig
from ldm.training.latent_diffusion import DiffusionConfig, FrozenParts, LatentDiffusionObjective
from ldm.training.plan import Hardware, make_plan
from ldm.training.player import Player
from ldm.training.run import ClipRun, DataConfig, LatentDiffusionRun, load_run
from ldm.unet import UNet, UNetConfig

_CONFIGS = Path(__file__).parent.parent / "configs"
_UNET = UNetConfig(
    widths=(16, 32),
    blocks_per_level=1,
    transformer_layers=(0, 1),
    num_heads=(2, 2),
    context_dim=8,
    norm_groups=8,
    num_classes=11,
    class_tokens=True,
)
_LOOP = LoopConfig(batch_size=8, micro_batch_size=4, samples=80, ema_more=(8.0,), precision="fp32", lr_shape="constant")
_RUN = LatentDiffusionRun(output="runs/x", data=DataConfig(size=64), unet=_UNET, loop=_LOOP)
_CPU = Hardware(on_gpu=False)


def _player(checkpointing: bool) -> tuple[Player, LatentDiffusionObjective]:
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8, 8), norm_groups=4))
    parts = FrozenParts(autoencoder, LatentFormat())
    objective = LatentDiffusionObjective(UNet(_UNET), parts, DiffusionConfig(), picture_size=64)
    config = replace(_LOOP, gradient_checkpointing=checkpointing)
    return Player.build("unet", objective.players["unet"], config), objective


def _held_in_a_step(checkpointing: bool) -> tuple[Player, int]:
    """A player after a real step of the real objective, and the bytes that autograd held in its forward pass."""
    player, objective = _player(checkpointing)
    own = {parameter.untyped_storage().data_ptr() for parameter in player.module.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    batch = {"index": torch.arange(4), "label": torch.arange(4)}
    batch |= {"mean": torch.randn(4, 4, 16, 16), "std": torch.zeros(4, 4, 16, 16)}
    player.start(1e-3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective.loss("unet", batch, [torch.Generator().manual_seed(i) for i in range(4)], 0)["loss"]
    size = sum(storage.nbytes() for storage in held.values())
    loss.backward()
    player.step(player.gradient_norm(), 1.0, 8, 8)
    return player, size


def test_memory_of_a_real_step_is_the_predicted():
    memory = make_plan(_RUN, _CPU, factor=4).networks[0].memory
    player, activations = _held_in_a_step(checkpointing=False)
    parameters = list(player.module.parameters())
    moments = [value for state in player.optimizers[0].state.values() for value in state.values() if value.ndim]
    averages = [p for average in player.averages for p in average.module.parameters()]
    for predicted, real in (
        (memory.weights, parameters),
        (memory.gradients, [p.grad for p in parameters]),
        (memory.moments, moments),
        (memory.averages, averages),
    ):
        assert predicted == sum(tensor.nbytes for tensor in real)
    assert len(player.averages) == 2
    assert memory.activations == pytest.approx(activations, rel=0.05)
    _, inputs = _held_in_a_step(checkpointing=True)
    assert inputs <= memory.checkpointed < 0.7 * memory.activations
    assert memory.with_averages - memory.full == memory.averages
    assert memory.with_averages - memory.with_checkpointing == memory.activations - memory.checkpointed


def test_parts_hold_their_share_and_replicas_everything():
    one, replicas, parts = (
        make_plan(_RUN, replace(_CPU, processes=processes, sharded=sharded), factor=4).networks[0].memory
        for processes, sharded in ((1, False), (2, False), (2, True))
    )
    assert (replicas.weights, replicas.moments, replicas.averages) == (one.weights, one.moments, one.averages)
    assert (one.buckets, replicas.buckets) == (0, one.gradients)
    for name in ("weights", "gradients", "moments", "averages"):
        share = getattr(parts, name) / getattr(one, name)
        assert 0.5 <= share < 0.51, name  # tensors of odd length are not halved exactly


def test_disk_is_what_the_files_take(tmp_path):
    from ldm.training.checkpoint import Progress, save_checkpoint

    player, _ = _held_in_a_step(checkpointing=False)
    save_checkpoint(tmp_path, {"unet": player}, Progress(samples_seen=8), "", _LOOP)
    written = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert make_plan(_RUN, _CPU, factor=4).checkpoint_bytes == pytest.approx(written, rel=0.2)  # files have headers
    assert make_plan(_RUN, _CPU, factor=4).checkpoint_bytes <= written


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
    found = make_plan(run, _CPU, factor=4).networks[0]
    assert found.forward_flops == products
    assert 1.8 * products < found.backward_flops <= 2 * products  # nobody asks for the input's gradient


def test_hours_rate_and_price_follow_from_each_other():
    known = make_plan(_RUN, Hardware(processes=4, tflops=2.0, price=3.0), factor=4)
    assert known.hours == pytest.approx(known.flops_per_sample * 80 / (2e12 * 4) / 3600)
    assert known.samples_per_second == pytest.approx(80 / (known.hours * 3600))
    assert known.cost == pytest.approx(known.hours * 3.0 * 4)
    asked = make_plan(_RUN, Hardware(processes=4, hours=known.hours), factor=4)
    assert asked.tflops_per_device == pytest.approx(2.0)
    again = replace(_RUN, loop=replace(_LOOP, gradient_checkpointing=True))
    network = known.networks[0]
    assert make_plan(again, _CPU, factor=4).flops_per_sample - known.flops_per_sample == network.forward_flops


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
        make_plan(_RUN, Hardware(processes=3))
    with pytest.raises(ValueError, match="task='clip' cannot be planned"):
        make_plan(ClipRun(output="x"), _CPU)


@pytest.mark.parametrize("name", ["kl-f16", "vq-f8"])
def test_autoencoders_are_planned_with_their_discriminators(name):
    run = load_run(_CONFIGS / "autoencoder" / f"{name}.yaml", ["data.size=64", "loop.micro_batch_size=1"])
    plan = make_plan(run, _CPU)
    assert [network.name for network in plan.networks] == ["autoencoder", "discriminator"]
    assert all(network.memory.activations > 0 and network.forward_flops > 0 for network in plan.networks)
    assert plan.networks[0].memory.checkpointed < plan.networks[0].memory.activations


def test_command_needs_neither_weights_nor_data():
    options = ["--processes", "8", "--sharded", "--hours", "100", "--price", "2.5", "--factor", "8"]
    config = [str(_CONFIGS / "sd15.yaml"), "data.size=64"]
    found = CliRunner().invoke(app, ["train", "plan", *config, *options, "--json"])
    assert found.exit_code == 0, found.output
    plan = json.loads(found.output)
    assert plan["networks"][0]["parameters"] == 859_520_964
    assert plan["cost"] == pytest.approx(100 * 2.5 * 8)
    assert plan["tflops_per_device"] > 0
    told = CliRunner().invoke(app, ["train", "plan", *config, "--tflops", "0.3", "--cpu"])
    assert "859,520,964 parameters" in told.output and "time: " in told.output
