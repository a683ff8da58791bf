"""Token merging: the formula written out as the oracle, its laws, and drawings with it."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from adapters import low_ranks, unet_layers
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from unet_twins import SD1, inputs

from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.adapters.lora.deltas import LowRank
from ldm.denoiser import NetworkDenoiser
from ldm.engine.choose import engine_failure, engine_for
from ldm.engine.names import ENGINES
from ldm.engine.packed import PackedEngine
from ldm.networks.token_merging import MergedAttention, MergedTokens, TokenMerging, destinations
from ldm.networks.unet import UNet, UNetConfig
from ldm.process import DiscreteVP

SDXL = UNetConfig(
    widths=(8, 16, 16),
    num_heads=(1, 2, 4),
    transformer_layers=(0, 2, 3),
    mid_transformer_layers=2,
    context_dim=12,
    norm_groups=4,
)
"""Its finest level has no attention."""


class Layer:
    """A layer that attends as PyTorch does, and counts what it is given."""

    name = "a"

    def __init__(self) -> None:
        self.lengths: list[tuple[int, int, int]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        self.lengths.append((q.shape[2], k.shape[2], v.shape[2]))
        return F.scaled_dot_product_attention(q, k, v)


def written_out(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, merge: int) -> Tensor:
    """One sample (N, L, D), token by token: whom each would join, the `merge` most alike join, attention of means."""
    length, to = k.shape[1], chosen.nonzero()[:, 0].tolist()
    features = k.transpose(0, 1).flatten(1)
    joins = {}
    for i in set(range(length)) - set(to):
        alike = [(F.cosine_similarity(features[i], features[j], dim=0).item(), j) for j in to]
        joins[i] = max(alike)
    most = sorted(joins, key=lambda i: -joins[i][0])[:merge]
    groups = [[j, *(i for i in most if joins[i][1] == j)] for j in to]
    groups += [[i] for i in range(length) if i not in to and i not in most]
    means = [torch.stack([x[:, group].mean(1) for group in groups], 1) for x in (q, k, v)]
    attended = F.scaled_dot_product_attention(*means)
    out = torch.empty_like(q)
    for place, group in enumerate(groups):
        out[:, group] = attended[:, place : place + 1]
    return out


def random_tokens(length: int, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(3, 2, 2, length, 4, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("size", "ratio"), [((4, 6), 0.25), ((5, 7), 0.5), ((6, 4), 0.75), ((2, 2), 0.5)])
def test_merged_attention_is_the_formula_written_out(size: tuple[int, int], ratio: float):
    q, k, v = random_tokens(size[0] * size[1])
    chosen, layer = destinations(*size, seed=3), Layer()
    got = MergedAttention(frozenset("a"), ratio, chosen)(layer, q, k, v)
    merge = min(int(ratio * k.shape[2]), int((~chosen).sum()))
    for row in range(2):
        torch.testing.assert_close(got[row], written_out(q[row], k[row], v[row], chosen, merge), atol=1e-5, rtol=1e-5)
    assert layer.lengths == [(k.shape[2] - merge,) * 3]


def test_of_every_two_by_two_one_is_chosen_and_times_choose_otherwise():
    chosen = destinations(6, 9, seed=0).view(6, 9)
    assert (chosen[:, :8].unfold(0, 2, 2).unfold(1, 2, 2).sum((-1, -2)) == 1).all() and not chosen[:, 8].any()
    corners = [destinations(2, 2, seed).nonzero().item() for seed in range(64)]
    assert {corners.count(each) > 4 for each in range(4)} == {True}
    assert destinations(1, 8, seed=0).sum() == 0


def test_what_was_constant_in_each_group_comes_back():
    features = random_tokens(24)[0].flatten(1, 1).transpose(1, 2).flatten(2)
    merged = MergedTokens.of(features, destinations(4, 6, seed=1), 12)
    constant = torch.randn(2 * merged.count, 8)[merged.place]
    torch.testing.assert_close(merged.unmerge(merged.merge(constant)), constant)
    assert merged.merge(constant).shape == (2, 12, 8)
    none = MergedTokens.of(features, destinations(4, 6, seed=1), 0)
    assert torch.equal(none.unmerge(none.merge(features)), features)


@pytest.mark.parametrize(("dtype", "side", "off"), [(torch.float32, 16, 1e-5), (torch.bfloat16, 64, 1e-2)])
def test_merging_equal_tokens_changes_nothing(dtype: torch.dtype, side: int, off: float):
    """Of bfloat16 too, in which a running sum of many would stop growing."""
    q, k, v = (x[:, :, :1].expand(-1, -1, side**2, -1).to(dtype) for x in random_tokens(1))
    got = MergedAttention(frozenset("a"), 0.5, destinations(side, side, seed=1))(Layer(), q, k, v)
    torch.testing.assert_close(got, v, atol=off, rtol=0)


def test_a_row_does_not_depend_on_the_others():
    q, k, v = random_tokens(24)
    merged = MergedAttention(frozenset("a"), 0.5, destinations(4, 6, seed=1))
    together = merged(Layer(), q, k, v)
    for row in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(together[row], merged(Layer(), q[row], k[row], v[row]))


def noted(
    attend: Callable[..., Tensor], seen: set[int], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    seen.add(k.shape[2])
    return attend(q, k, v, mask)


@pytest.mark.parametrize("config", [SD1, SDXL])
def test_only_the_finest_self_attention_of_a_network_is_merged(config):
    network = UNet(config).requires_grad_(False)
    x, _, conditioning = inputs(config, (8, 12))
    lengths: dict[str, set[int]] = {}
    for name, layer in network.named_modules():
        if name.endswith("attn1"):
            lengths[name] = set()
            layer.attend = partial(noted, layer.attend, lengths[name])
    denoise = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, merging=TokenMerging(0.5))
    denoise(x, 500.0)
    tokens = {name: network.token_grid(name, 8, 12) for name in lengths}
    finest = max(tokens.values())
    expected = {name: {h * w // 2 if (h, w) == finest else h * w} for name, (h, w) in tokens.items()}
    assert lengths == expected and len(set(tokens.values())) > 1


def test_engines_agree_and_time_alone_decides_what_is_drawn():
    network = UNet(SD1).requires_grad_(False)
    x, _, conditioning = inputs(SD1, (8, 8))
    made = [
        NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, merging=TokenMerging(0.5), **engine)
        for engine in ({}, {}, {"engine": PackedEngine()})
    ]
    with torch.inference_mode():
        first, again, packed = (each(x, 500.0).eps for each in made)
        plain = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning)(x, 500.0).eps
    assert torch.equal(first, again) and not torch.equal(first, plain)
    torch.testing.assert_close(packed, first, atol=1e-4, rtol=1e-3)


def test_gradients_flow_through_merged_tokens():
    network = UNet(SD1).requires_grad_(False)
    x, _, conditioning = inputs(SD1, (8, 8))
    denoise = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, merging=TokenMerging(0.5))
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(denoise(x, 500.0).eps.sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_a_network_that_is_a_function_has_no_tokens():
    denoise = NetworkDenoiser(lambda x, t, c: x, DiscreteVP(), "epsilon", Conditioning(), merging=TokenMerging(0.5))
    with pytest.raises(ValueError, match="token merging needs a network with attention hooks"):
        denoise(torch.zeros(1, 4, 8, 8), 500.0)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="eager")


def latents(model: LatentDiffusion, **settings: object) -> Tensor:
    options = {"prompt": "apple", "seed": 3, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    images: Tensor = model(**options | settings).images  # type: ignore[arg-type]
    return images


def test_ratio_zero_is_plain_bit_for_bit_and_a_batch_is_its_pictures(model: LatentDiffusion):
    plain = latents(model)
    assert torch.equal(latents(model, token_merging=0.0), plain)
    alone = [latents(model, prompt=p, seed=3 + i, token_merging=0.5) for i, p in enumerate(("apple", "dark sea"))]
    assert not torch.equal(alone[0], plain)
    together = latents(model, prompt=["apple", "dark sea"], token_merging=0.5)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_it_goes_with_caches_tiles_and_a_second_pass_and_is_in_the_recipe(model: LatentDiffusion):
    assert torch.isfinite(latents(model, token_merging=0.5, cache_options={"deepcache": 2})).all()
    assert torch.isfinite(latents(model, token_merging=0.5, width=32, height=32, tile_size=16)).all()
    drawn = model.hires("apple", seed=1, num_inference_steps=2, width=32, height=32, token_merging=0.25)
    assert drawn.recipes[0].token_merging == 0.25


@pytest.mark.parametrize("engine", ["eager", "packed"])
@pytest.mark.parametrize("by_tag", [False, True])
def test_tokens_of_layers_with_a_lora_are_merged_as_those_of_merged_weights(
    tiny_folder: Path, tmp_path: Path, engine: str, by_tag: bool
):
    adapted, merged = (LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine=engine) for _ in range(2))
    plain = latents(adapted, token_merging=0.5)
    layers = {
        name: layer for name, layer in unet_layers(merged.unet).items() if re.search(r"attn1\.to_|attn2\.to_", name)
    }
    deltas = low_ranks(layers, scale=2.0)
    file: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        assert isinstance(delta, LowRank)
        file[f"{name}.lora_A.weight"], file[f"{name}.lora_B.weight"] = delta.down, delta.up * delta.scale
        layers[name].weight.add_(delta.scale * delta.up @ delta.down)
    save_file(file, tmp_path / "ink.safetensors")
    assert adapted.load_lora(tmp_path / "ink.safetensors", weight=0.0 if by_tag else 1.0).matched == len(deltas) > 20
    prompt = "apple<lora:ink:1>" if by_tag else "apple"
    found = latents(adapted, prompt=prompt, token_merging=0.5)
    torch.testing.assert_close(found, latents(merged, token_merging=0.5), atol=1e-3, rtol=1e-3)
    assert (found - plain).abs().max() > 0.05
    assert (found - latents(merged)).abs().max() > 1e-3


def test_every_engine_merges_tokens_or_refuses_by_name():
    network = UNet(SD1).requires_grad_(False)
    x, _, conditioning = inputs(SD1, (8, 8))
    eager = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, merging=TokenMerging(0.5))(x, 500.0).eps
    hosts = {"eager": True, "packed": True, **dict.fromkeys(("compiled", "cudagraphs", "openvino", "onnx"), False)}
    assert set(hosts) == set(ENGINES) - {"auto"}
    for name, hosted in hosts.items():
        if engine_failure(name):
            continue
        engine = engine_for(name, torch.device("cpu"))
        denoise = NetworkDenoiser(
            network, DiscreteVP(), "epsilon", conditioning, engine=engine, merging=TokenMerging(0.5)
        )
        if hosted:
            torch.testing.assert_close(denoise(x, 500.0).eps, eager, atol=1e-4, rtol=1e-3)
        else:
            with pytest.raises(ValueError, match=rf"token merging needs .*the {name} engine takes none, use eager"):
                denoise(x, 500.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_merging": 0.8}, "token_merging=0.8 is not possible; use 0 to 0.75"),
        ({"token_merging": 0.5, "guidance_options": {"pag_scale": 3.0}}, "pag_scale=3 needs every token's attention"),
        ({"token_merging": 0.5, "guidance_options": {"seg_scale": 3.0}}, "leave out token_merging, or seg_scale"),
        ({"token_merging": 0.5, "attention_hook": Layer.attend}, "token_merging=0.5 and attention_hook both"),
    ],
)
def test_what_is_refused(model: LatentDiffusion, settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        latents(model, **settings)
