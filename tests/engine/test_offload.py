"""Offloaded networks draw the same pictures to the bit, and are on the device only while they are used.

The device is the CPU here, where a copy on the "device" is another piece of the same memory.
"""

from pathlib import Path

import pytest
import torch
from families import make_family
from torch import nn

from ldm import LatentDiffusion
from ldm.engine import offload
from ldm.engine.names import OFFLOADS
from ldm.engine.offload import repeated_blocks
from ldm.io.folder.load import load_folder

CPU = torch.device("cpu")
CALL = {"num_inference_steps": 2, "seed": 0, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL: with two text encoders."""
    place = tmp_path_factory.mktemp("sdxl")
    make_family("sdxl", place).save_pretrained(place / "model")
    return place / "model"


def opened(folder: Path, kind: str) -> LatentDiffusion:
    return LatentDiffusion(load_folder(folder, torch.float32), device="cpu", offload=kind)


def networks(model: LatentDiffusion) -> dict[str, nn.Module]:
    return {name: part for name, part in model.components.items() if isinstance(part, nn.Module)}


@pytest.mark.parametrize("kind", OFFLOADS[1:])
@pytest.mark.parametrize("settings", [{}, {"seamless": "xy", "vae_memory": 0.0}], ids=["plain", "pattern in tiles"])
def test_pictures_are_those_of_the_model_in_one_place(folder: Path, kind: str, settings: dict) -> None:
    size = {"width": 128, "height": 128} if settings else {}
    wanted = opened(folder, "none")("apple", **CALL, **settings, **size)
    model = opened(folder, kind)
    for _ in range(2):  # the second one with the order of blocks known
        made = model("apple", **CALL, **settings, **size)
        assert torch.equal(made.images, wanted.images)
    assert made.recipes == wanted.recipes
    pictures = torch.rand(1, 3, 32, 32)
    assert torch.equal(model.encode(pictures), opened(folder, "none").encode(pictures))


def test_one_network_at_a_time_is_on_the_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.device("cpu", 0)  # equal to the other in memory, not in name
    moves: list[tuple[str, bool]] = []
    parts = load_folder(folder, torch.float32)
    names: dict[nn.Module, str] = {}
    to = nn.Module.to

    def recorded(self: nn.Module, *given, **more):
        if self in names:
            moves.append((names[self], given[0] == place))
        return to(self, *given, **more)

    monkeypatch.setattr(nn.Module, "to", recorded)
    model = LatentDiffusion(parts, device=place, offload="model")
    names |= {each: name for name, part in networks(model).items() for each in part.modules()}
    model("apple", **CALL)
    there: set[str] = set()
    order: list[str] = []
    for name, brought in moves:
        there = there | {name} if brought else there - {name}
        assert len(there) <= 1, moves
        if brought and order[-1:] != [name]:
            order.append(name)
    assert order[-2:] == ["unet", "vae"] and {"text_encoder", "text_encoder_2"} <= set(order)


class Copies:
    """How many of some layers have their weights elsewhere than at home, at each call of one of them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.home = {layer: [each.data_ptr() for each in layer.parameters()] for layer in layers}
        self.most, self.least = 0, len(layers)
        for layer in layers:
            layer.register_forward_pre_hook(self.look)

    def away(self) -> int:
        return sum([each.data_ptr() for each in layer.parameters()] != home for layer, home in self.home.items())

    def look(self, layer: nn.Module, inputs: tuple) -> None:
        self.most, self.least = max(self.most, self.away()), min(self.least, self.away())


@pytest.mark.parametrize("kind", ["sequential", "group"])
def test_weights_are_on_the_device_only_while_their_layer_runs(folder: Path, kind: str) -> None:
    model = opened(folder, kind)
    blocks = [block for network in networks(model).values() for block in repeated_blocks(network)]
    assert sum(each.numel() for block in blocks for each in block.parameters()) > 60_000  # most of the model
    layers = [layer for block in blocks for layer in block.modules() if layer._parameters]
    copies = Copies(layers if kind == "sequential" else blocks)
    model("apple", **CALL)
    assert (copies.least, copies.most) == (1, 1) and copies.away() == 0


def test_weights_are_home_again_after_a_failure(folder: Path) -> None:
    model = opened(folder, "sequential")
    blocks = repeated_blocks(model.unet)
    copies = Copies(blocks)

    def fail(*_):
        raise RuntimeError("stop")

    handle = blocks[2].conv1.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        model("apple", **CALL)
    handle.remove()
    assert copies.away() == 0
    assert torch.equal(model("apple", **CALL).images, opened(folder, "none")("apple", **CALL).images)


def test_a_block_that_is_on_its_way_has_the_weights_that_were_changed_since(folder: Path) -> None:
    model, other = opened(folder, "group"), opened(folder, "none")
    model("apple", **CALL)
    for each in (model, other):
        with torch.no_grad():
            for parameter in each.unet.parameters():
                parameter.mul_(1.1)
    assert torch.equal(model("apple", **CALL).images, other("apple", **CALL).images)


def test_cpus_move_nothing_and_other_engines_give_way(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", offload="model")
    assert model.offload == "none"
    assert offload.engine_name_for("auto", "auto", "group") == "eager"
    assert offload.engine_name_for("packed", "auto", "none") == "packed"
    assert offload.engine_name_for("packed", "auto", "group") == "eager"
    assert [record.getMessage() for record in caplog.records] == [
        "offload='model' is for GPUs; on a CPU all weights are in its memory, so nothing is moved",
        "engine='packed' keeps weights where they are, and offload='group' moves them; using eager",
    ]
    with pytest.raises(ValueError, match=r"offload 'modl'.*model"):
        LatentDiffusion.from_pretrained(tiny_folder, offload="modl")
