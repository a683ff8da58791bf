"""The engine and the attention backend of a model reach its network, and learn of changed weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import low_ranks, unet_layers
from torch import Tensor

from autoencoder.views import Module
from ldm import LatentDiffusion
from ldm.engine.choose import best_engine
from ldm.engine.eager import EagerEngine
from ldm.generation.recipe import Recipe
from ldm.networks.attention import Attending
from ldm.networks.network import Backbone

OPTIONS = {"prompt": "a red apple", "seed": 0, "num_inference_steps": 2, "output_type": "pt"}


class Counting(EagerEngine):
    """Eager, with a count of the network's calls and of the changes that are reported to it."""

    def __init__(self) -> None:
        self.calls = self.changes = 0
        self.viewed: list[str] = []

    def view(self, module: Module) -> Module:
        self.viewed.append(type(module).__name__)
        return super().view(module)

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
    plain = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="eager")
    engine = Counting()
    model = LatentDiffusion(plain.parts, "tiny", engine=engine)
    assert torch.equal(model(**OPTIONS).images, plain(**OPTIONS).images)
    assert engine.calls == 2
    assert set(engine.viewed) == {"ClipText", "KLAutoencoder"}


def test_a_model_is_packed_on_cpus_and_recipes_name_its_engine(tiny_folder: Path) -> None:
    expected = best_engine(torch.device("cpu"))
    results = {
        name: LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine=name)(**OPTIONS)
        for name in ("auto", "packed", "eager")
    }
    assert [each.recipes[0].engine for each in results.values()] == [expected, "packed", "eager"]
    for each in results.values():
        torch.testing.assert_close(each.images, results["eager"].images, atol=1 / 255, rtol=0)


def test_the_recipe_of_a_time_without_engines_is_repeated_by_the_one_there_was(tiny_folder: Path) -> None:
    recipe = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="packed")(**OPTIONS).recipes[0]
    content = json.loads(recipe.to_json())
    assert Recipe.from_json(json.dumps(content), "a.png").engine == "packed"
    del content["engine"]
    assert Recipe.from_json(json.dumps(content), "a.png").engine == "eager"


def test_an_engine_that_cannot_run_says_so_in_a_line_and_eager_takes_over(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ldm.engine.packed.packed_dtypes", lambda: frozenset())
    model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="packed")
    assert model.engine.name == "eager"
    assert caplog.messages == ["the packed engine needs oneDNN, which this PyTorch is built without; using eager"]


def test_lora_weights_of_one_prompt_are_packed_too(tiny_folder: Path) -> None:
    pictures = []
    for engine in ("packed", "eager"):
        model = LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine=engine)
        model.loras.add(low_ranks(unet_layers(model.parts.unet)), "ink", 0.0)
        tagged = [model(**OPTIONS | {"prompt": f"a red apple <lora:ink:{weight}>"}).images for weight in (0, 0.9)]
        model.loras.set_weights({"ink": 0.9})
        pictures.append(torch.cat([*tagged, model(**OPTIONS).images]))
    torch.testing.assert_close(*pictures, atol=1e-4, rtol=0)
    assert (pictures[0][0] - pictures[0][1]).abs().max() > 0.01
    torch.testing.assert_close(pictures[0][1], pictures[0][2], atol=1e-4, rtol=0)


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
def test_an_unknown_backend_or_engine_is_refused_before_anything_is_read(opening: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"attention backend 'xformrs'.*'xformers'"):
        opening(tmp_path / "nowhere", attention="xformrs")
    with pytest.raises(ValueError, match=r"engine 'pakced'.*'packed'"):
        opening(tmp_path / "nowhere", engine="pakced")
