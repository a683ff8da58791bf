"""Blocks that are checkpointed or compiled compute what they did, under the names that they had."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from regression import Regression
from torch import Tensor, nn

from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.training.objective import AutoencoderObjective
from conditioning.bundle import Conditioning
from ldm.engine import compiled
from ldm.engine.compiled import require_compiler
from ldm.networks.attention import Attending
from ldm.networks.unet import UNet, UNetConfig
from ldm.training.config import LoopConfig
from ldm.training.optimization.blockwise import prepare_blocks, repeated_blocks
from ldm.training.optimization.trained_module import TrainedModule

_PLAIN = LoopConfig(precision="fp32")
_CHECKPOINTED = replace(_PLAIN, gradient_checkpointing=True)
_COMPILED = replace(_PLAIN, compile=True)


def _has_compiler() -> bool:
    try:
        require_compiler("compile")
    except ValueError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _has_compiler(), reason="there is no C++ compiler")


def _unet() -> UNet:
    torch.manual_seed(0)
    config = UNetConfig(
        widths=(16, 32), transformer_layers=(1, 1), num_heads=(2, 2), context_dim=8, blocks_per_level=1, norm_groups=8
    )
    return UNet(config).to(memory_format=torch.channels_last)


def _unet_loss(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    tokens = torch.randn(2, 5, 8, generator=generator)
    return unet(x, torch.tensor([3.0, 700.0]), Conditioning(tokens=tokens)).square().mean()


def _autoencoder() -> nn.Module:
    torch.manual_seed(0)
    config = AutoencoderConfig(widths=(8, 16), blocks_per_level=1, norm_groups=4)
    loss = LossConfig(perceptual_weight=0.0)
    return AutoencoderObjective(KLAutoencoder(config), loss).trained_modules["autoencoder"]


def _autoencoder_loss(module_name: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 32, 32, generator=generator)
    made = module_name(image, [torch.Generator().manual_seed(i) for i in range(2)])
    return made.parts[0].output.square().mean() + made.penalty


_NETWORKS = pytest.mark.parametrize(
    ("build", "loss"), [(_unet, _unet_loss), (_autoencoder, _autoencoder_loss)], ids=["unet", "autoencoder"]
)


def _run(module: nn.Module, loss: object) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that are held when the forward pass ends."""
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(module)
    bytes_held = sum(held.values())
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in module.named_parameters()}, bytes_held


def _assert_same(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=tolerance, atol=tolerance, msg=lambda t, n=name: f"{n}: {t}")


@_NETWORKS
def test_checkpointing_changes_memory_alone(build, loss):
    plain, checkpointed = build(), build()
    prepare_blocks("net", checkpointed, _CHECKPOINTED)
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    value, gradients, held = _run(plain, loss)
    other, others, less = _run(checkpointed, loss)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=0)
    _assert_same(others, gradients, 1e-6)
    assert less < 0.5 * held, f"{less} bytes are held instead of {held}"


@pytest.mark.slow
@needs_compiler
def test_compiled_blocks_compute_the_same(monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    config = UNetConfig(widths=(8,), transformer_layers=(1,), num_heads=(2,), context_dim=8, norm_groups=4)
    for checkpointed in (False, True):
        torch.manual_seed(0)
        plain = UNet(replace(config, blocks_per_level=1)).to(memory_format=torch.channels_last)
        compiled = copy.deepcopy(plain)
        prepare_blocks("unet", compiled, replace(_COMPILED, gradient_checkpointing=checkpointed))
        assert plain.state_dict().keys() == compiled.state_dict().keys()
        value, gradients, _ = _run(plain, _unet_loss)
        other, others, _ = _run(compiled, _unet_loss)
        torch.testing.assert_close(other, value, rtol=1e-5, atol=0)
        _assert_same(others, gradients, 1e-5)


def test_what_a_module_shows_and_averages_is_neither_compiled_nor_checkpointed():
    module_name = TrainedModule.build("unet", _unet(), _CHECKPOINTED)
    for module in (module_name.weights(0), module_name.weights(None)):
        assert not any("forward" in vars(block) for block in module.modules())
        assert all(
            torch.equal(value, module_name.module.state_dict()[key]) for key, value in module.state_dict().items()
        )
    assert all("forward" in vars(block) for block in repeated_blocks(module_name.module))
    shown = module_name.weights(0)
    with torch.no_grad():
        module_name.module.conv_in.weight.zero_()
    assert shown.conv_in.weight.any(), "what is shown must not change with the training"
    assert shown.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("field", ["gradient_checkpointing", "compile"])
def test_network_without_blocks_is_refused(field):
    config = replace(_PLAIN, **{field: True})
    with pytest.raises(ValueError, match=f"loop.{field}=true works block by block, and line has no such blocks"):
        TrainedModule.build("line", Regression().trained_modules["line"], config)


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(compiled, "shutil", SimpleNamespace(which=lambda name: None))
    with pytest.raises(ValueError, match=r"loop.compile=true needs a C\+\+ compiler, e.g. g\+\+; install one"):
        TrainedModule.build("unet", copy.deepcopy(_unet()), _COMPILED)


def test_attention_of_a_training_is_that_of_its_network_alone():
    config = LoopConfig(attention="math")
    with pytest.raises(ValueError, match=r"loop.attention 'mth'.*'math'"):
        LoopConfig(attention="mth")
    trained, other = _unet(), _unet()
    prepare_blocks("unet", trained, config)
    assert {part.backend for part in trained.modules() if isinstance(part, Attending)} == {"math"}
    assert {part.backend for part in other.modules() if isinstance(part, Attending)} == {"sdpa"}
