"""The engine and the attention backend of a model reach its network, and learn of changed weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import low_ranks, unet_layers
from torch import Tensor

from ldm import LatentDiffusion
from ldm.engine.eager import EagerEngine
from ldm.networks.attention import Attending
from ldm.networks.network import Backbone

OPTIONS = {"prompt": "a red apple", "seed": 0, "num_inference_steps": 2, "output_type": "pt"}


class Counting(EagerEngine):
    """Eager, with a count of the network's calls and of the changes that are reported to it."""

    def __init__(self) -> None:
        self.calls = self.changes = 0

    def network(self, backbone: Backbone) -> Callable[..., Tensor]:
        run = super().network(backbone)

        def counted(*arguments: object, **options: object) -> Tensor:
            self.calls += 1
            return run(*arguments, **options)

        return counted

    def weights_changed(self) -> None:
        self.changes += 1


def backends(model: LatentDiffusion) -> set[str]:
    return {module.backend for module in model.parts.unet.modules() if isinstance(module, Attending)}


def test_the_network_is_called_through_the_engine(tiny_folder: Path) -> None:
    plain = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")
    engine = Counting()
    model = LatentDiffusion(plain.parts, "tiny", engine=engine)
    assert torch.equal(model(**OPTIONS).images, plain(**OPTIONS).images)
    assert engine.calls == 2


def test_merging_adapters_tells_the_engine(tiny_folder: Path) -> None:
    engine = Counting()
    model = LatentDiffusion(LatentDiffusion.from_pretrained(tiny_folder, device="cpu").parts, "tiny", engine=engine)
    layers = unet_layers(model.parts.unet)
    names = [name for name in layers if name.startswith("unet.mid_block")]
    model.loras.add(low_ranks(layers, only=names), "ink")
    model.loras.set_weights({"ink": 0.5})
    model.loras.unload()
    assert engine.changes == 3


def test_two_models_keep_their_own_attention_and_recipes_name_it(tiny_folder: Path) -> None:
    usual = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")
    other = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", attention="math")
    assert (backends(usual), backends(other)) == ({"sdpa"}, {"math"})
    one, two = usual(**OPTIONS), other(**OPTIONS)
    torch.testing.assert_close(two.images, one.images, atol=1e-4, rtol=0)
    assert (one.recipes[0].attention, two.recipes[0].attention) == ("sdpa", "math")


@pytest.mark.parametrize("opening", [LatentDiffusion.from_pretrained, LatentDiffusion.from_single_file])
def test_an_unknown_backend_is_refused_before_anything_is_read(opening: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"attention backend 'xformrs'.*'xformers'"):
        opening(tmp_path / "nowhere", attention="xformrs")
