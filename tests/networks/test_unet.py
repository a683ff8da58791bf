"""The U-Net equals diffusers' `UNet2DConditionModel`, and the places where others join it leave it as it is."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from unet_twins import SD1, diffusers_twin, inputs, run_twin, twins

from autoencoder.kernels import cpu_kernels
from conditioning.bundle import Conditioning
from ldm.networks.network import Backbone
from ldm.networks.options import NetworkOptions, Residuals
from ldm.networks.unet import UNet, UNetConfig

SD2 = replace(SD1, num_heads=(1, 2, 4, 4), linear_projection=True)
SDXL = UNetConfig(
    widths=(8, 16, 16),
    transformer_layers=(0, 2, 3),
    mid_transformer_layers=3,
    num_heads=(1, 2, 4),
    context_dim=12,
    linear_projection=True,
    norm_groups=4,
    pooled_dim=10,
    size_embedding_dim=8,
)
CLASSES = UNetConfig(
    widths=(8, 16),
    blocks_per_level=1,
    transformer_layers=(0, 0),
    mid_transformer_layers=0,
    num_heads=(1, 1),
    context_dim=None,
    norm_groups=4,
    num_classes=11,
)
LABELLED = replace(SD1, widths=(8, 16), num_heads=(1, 2), transformer_layers=(1, 0), num_classes=11)
REFINER = replace(SDXL, size_count=5)
UPSCALER = replace(
    SD2, transformer_layers=(0, 1, 1, 1), num_classes=11, only_cross_attention=(False, True, True, False)
)
FAMILIES = {
    "sd1": SD1,
    "sd2": SD2,
    "sdxl": SDXL,
    "refiner": REFINER,
    "upscaler": UPSCALER,
    "classes": CLASSES,
    "labels-and-tokens": LABELLED,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(16, 16), (24, 8), (10, 14)], ids=str)
def test_equals_diffusers(family, size):
    ours, theirs = twins(FAMILIES[family])
    case = inputs(FAMILIES[family], size)
    with torch.no_grad():
        torch.testing.assert_close(ours(*case), run_twin(theirs, *case), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dict_goes_both_ways(family):
    ours, theirs = UNet(FAMILIES[family]), diffusers_twin(FAMILIES[family])
    theirs.load_state_dict(ours.state_dict(), strict=True)
    case = inputs(FAMILIES[family])
    with torch.no_grad():
        torch.testing.assert_close(ours(*case), run_twin(theirs, *case), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "classes"])
def test_gradients_of_a_training_step_equal_diffusers(family):
    config = FAMILIES[family]
    ours, theirs = twins(config)
    # channels_last and 16 pictures: the way of training, with the doubling folded into the kernel at the finer levels.
    x, time, conditioning = inputs(config, batch=16)
    target = torch.randn_like(x)
    last = x.contiguous(memory_format=torch.channels_last)
    (ours.to(memory_format=torch.channels_last)(last, time, conditioning) - target).square().mean().backward()
    (run_twin(theirs, x, time, conditioning) - target).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_masked_tokens_do_not_count():
    ours, theirs = twins(SD1)
    x, time, conditioning = inputs(SD1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    masked = replace(conditioning, mask=mask)
    other = replace(masked, tokens=torch.where(mask[..., None], conditioning.tokens, 7.0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, time, masked), run_twin(theirs, x, time, masked), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x, time, masked), ours(x, time, other))


def test_bf16_is_close_and_so_are_its_gradients():
    ours, _ = twins(SD2)
    x, time, conditioning = inputs(SD2, batch=16)
    case = x.contiguous(memory_format=torch.channels_last), time, conditioning
    expected = ours(*case)
    expected.square().mean().backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in ours.parameters()])
    ours.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(*case)
    output.float().square().mean().backward()
    rounded = torch.cat([parameter.grad.flatten() for parameter in ours.parameters()])
    expected = expected.detach()
    assert float((output.detach().float() - expected).norm() / expected.norm()) < 0.03
    assert float(F.cosine_similarity(exact, rounded, dim=0)) > 0.995
    with torch.no_grad():
        whole = ours.to(torch.bfloat16)(case[0].bfloat16(), case[1], case[2].to(dtype=torch.bfloat16))
    assert whole.dtype is torch.bfloat16
    assert float((whole.float() - expected).norm() / expected.norm()) < 0.05


def test_memory_layout_does_not_matter():
    ours, _ = twins(SD1)
    x, time, conditioning = inputs(SD1)
    with torch.no_grad():
        plain = ours(x, time, conditioning)
        ours.to(memory_format=torch.channels_last)
        last = ours(x.contiguous(memory_format=torch.channels_last), time, conditioning)
    torch.testing.assert_close(plain, last, atol=1e-6, rtol=0)


def test_a_batch_is_its_pictures():
    ours, _ = twins(SD1)
    x, time, conditioning = inputs(SD1, batch=16)
    with torch.no_grad():
        alone = torch.cat([ours(x[i : i + 1], time[i : i + 1], conditioning[i : i + 1]) for i in range(16)])
        torch.testing.assert_close(ours(x, time, conditioning), alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours(x, torch.tensor(7), conditioning), ours(x, torch.full((16,), 7), conditioning))


def test_residuals_equal_diffusers_and_zeros_are_bit_exact():
    ours, theirs = twins(SD1)
    x, time, conditioning = inputs(SD1)
    down = [(8, 16)] * 3 + [(8, 8)] + [(16, 8)] * 2 + [(16, 4)] * 3 + [(16, 2)] * 3
    extra = Residuals(tuple(torch.randn(3, channels, size, size) for channels, size in down), torch.randn(3, 16, 2, 2))
    nothing = Residuals(tuple(torch.zeros_like(part) for part in extra.down), torch.zeros_like(extra.mid))
    residuals = {"down_block_additional_residuals": extra.down, "mid_block_additional_residual": extra.mid}
    with torch.no_grad():
        expected = run_twin(theirs, x, time, conditioning, **residuals)
        torch.testing.assert_close(ours(x, time, conditioning, NetworkOptions(extra)), expected, atol=1e-5, rtol=0)
        assert torch.equal(ours(x, time, conditioning, NetworkOptions(nothing)), ours(x, time, conditioning))
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            ours(x, time, conditioning, NetworkOptions(Residuals(extra.down[:-1], extra.mid)))


def test_it_says_what_it_is():
    network = UNet(replace(FAMILIES["sdxl"], in_channels=9))
    assert isinstance(network, Backbone)
    assert (network.in_channels, network.out_channels, network.patch) == (9, 4, 1)
    assert network.needs == {"tokens", "pooled", "sizes", "concat"}
    assert not isinstance(torch.nn.Conv2d(4, 4, 1), Backbone)


@pytest.mark.parametrize("family", ["sd1", "classes", "sdxl"])
def test_repeated_blocks_hold_every_parameter_but_the_ends(family):
    network = UNet(FAMILIES[family])
    inside = [id(parameter) for block in network.repeated_blocks for parameter in block.parameters()]
    assert len(inside) == len(set(inside))
    outside = {name.split(".")[0] for name, value in network.named_parameters() if id(value) not in set(inside)}
    rest = {name for name, value in network.named_parameters() if id(value) not in set(inside) and "blocks" in name}
    assert outside <= {"conv_in", "time_embedding", "class_embedding", "add_embedding", "conv_norm_out", "conv_out"} | {
        "down_blocks",
        "mid_block",
        "up_blocks",
    }
    assert all("samplers" in name or ".attentions." in name for name in rest)  # resampling, and transformers' ends


@pytest.mark.parametrize("size", [(16, 16), (9, 14)], ids=str)
def test_the_token_grid_of_a_layer_is_that_of_its_queries(size):
    network, lengths = UNet(SD1), {}
    x, time, conditioning = inputs(SD1, size)

    def hook(layer, q, k, v, mask):
        lengths[layer.name] = q.shape[2]
        return layer.attend(q, k, v, mask)

    with torch.no_grad():
        network(x, time, conditioning, NetworkOptions(hook=hook))
    assert network.self_attention_layers == tuple(name for name in lengths if name.endswith("attn1"))
    for layer in network.self_attention_layers:
        height, width = network.token_grid(layer, *size)
        assert height * width == lengths[layer]


def test_the_network_is_the_same_with_the_kernels_off():
    ours, _ = twins(SD1)
    x, time, conditioning = inputs(SD1, batch=4)
    x = x.contiguous(memory_format=torch.channels_last)
    ours.to(memory_format=torch.channels_last)
    results = []
    for enabled in (True, False):
        with cpu_kernels(enabled):
            output = ours(x, time, conditioning)
            results.append((output, *torch.autograd.grad(output.square().mean(), list(ours.parameters()))))
    for on, off in zip(*results, strict=True):
        torch.testing.assert_close(on, off, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_it_is_exported_with_pytorchs_operators():
    ours, _ = twins(SD1)
    x, time, conditioning = inputs(SD1, batch=1)
    x = x.contiguous(memory_format=torch.channels_last)
    ours = ours.to(memory_format=torch.channels_last).requires_grad_(False)

    class WithTokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = ours

        def forward(self, x, time, tokens):
            return self.unet(x, time, Conditioning(tokens=tokens))

    program = torch.export.export(WithTokens(), (x, time, conditioning.tokens))
    torch.testing.assert_close(
        program.module()(x, time, conditioning.tokens), ours(x, time, conditioning), atol=1e-5, rtol=0
    )


def test_hook_sees_every_attention_and_attending_is_a_no_op():
    ours, _ = twins(SD2)
    x, time, conditioning = inputs(SD2)
    seen = {}

    def hook(layer, q, k, v, mask):
        seen[layer.name] = (q.shape, k.shape)
        return layer.attend(q, k, v, mask)

    with torch.no_grad():
        assert torch.equal(ours(x, time, conditioning, NetworkOptions(hook=hook)), ours(x, time, conditioning))
        silent = ours(x, time, conditioning, NetworkOptions(hook=lambda layer, q, k, v, mask: torch.zeros_like(q)))
    names = {name for name, _ in ours.named_modules() if name.endswith((".attn1", ".attn2"))}
    assert set(seen) == names and len(names) == 2 * (6 + 1 + 9)
    assert seen["mid_block.attentions.0.transformer_blocks.0.attn2"] == ((3, 4, 4, 4), (3, 4, 5, 4))
    assert not torch.allclose(silent, ours(x, time, conditioning))
    masked = replace(conditioning, mask=torch.arange(5).expand(3, 5) < torch.tensor([[1], [3], [5]]))
    with torch.no_grad():
        assert torch.equal(ours(x, time, masked, NetworkOptions(hook=hook)), ours(x, time, masked))


def test_masked_tokens_are_as_if_they_were_not_there():
    ours, _ = twins(SD1)
    x, time, conditioning = inputs(SD1)
    other = replace(conditioning, tokens=conditioning.tokens[:, :2] * 3)
    masked = replace(other, mask=torch.zeros(3, 2, dtype=torch.bool))
    with torch.no_grad():
        joined = Conditioning.join_tokens([conditioning, masked])
        torch.testing.assert_close(ours(x, time, joined), ours(x, time, conditioning), atol=1e-5, rtol=0)


def test_concat_channels_are_appended():
    ours, theirs = twins(replace(SD1, in_channels=9))
    x, time, conditioning = inputs(replace(SD1, in_channels=9))
    split = replace(conditioning, concat=x[:, 4:])
    with torch.no_grad():
        torch.testing.assert_close(
            ours(x[:, :4], time, split), run_twin(theirs, x, time, conditioning), atol=1e-5, rtol=0
        )
    with pytest.raises(ValueError, match=r"4 input channels.*in_channels=9"):
        ours(x[:, :4], time, conditioning)


@pytest.mark.parametrize(
    ("family", "field"), [("sd1", "tokens"), ("classes", "labels"), ("sdxl", "pooled"), ("sdxl", "sizes")]
)
def test_missing_conditioning_is_named(family, field):
    x, time, conditioning = inputs(FAMILIES[family])
    with pytest.raises(ValueError, match=f"conditioning.{field} is missing"):
        UNet(FAMILIES[family])(x, time, replace(conditioning, **{field: None}))


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": (2, 2)},
        {"transformer_layers": (1,)},
        {"norm_groups": 3},
        {"num_heads": (3, 2, 2, 2)},
        {"context_dim": None},
        {"pooled_dim": 8},
        {"only_cross_attention": (True,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_impossible_shapes_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SD1, **change)
