"""The recipes have the shapes, sizes and numbers that were published, and their structure trains at tiny widths.

Parameter counts of Stable Diffusion: the published files (fp32 safetensors of 3,438,167,540, 3,463,726,498 bytes for
1.5 and 2.1: four bytes a number and the header), and diffusers' classes built from the published `unet/config.json`.
CompVis published none for the class-conditional model, so it is summed layer by layer from `cin256-v2.yaml` by the
formulas below, which share nothing with our classes and give the other counts too.
"""

import math
from dataclasses import replace

import pytest
import torch
from checkout import CONFIGS

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.bundle import Conditioning
from conditioning.text_encoder import Widths
from ldm import LatentDiffusion
from ldm.networks.unet import UNet, UNetConfig
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective
from ldm.training.optimization.trained_module import TrainedModule
from ldm.training.stages.config_file import load_run
from ldm.training.stages.latent_diffusion import LatentDiffusionRun, require_exportable, write_model

_CLASSES = "ldm-imagenet256-class"
_PUBLISHED = {"sd15": 859_520_964, "sd21-v": 865_910_724, "sdxl": 2_567_463_684}
_NAMES = [*_PUBLISHED, _CLASSES]


def _run(name: str) -> LatentDiffusionRun:
    run = load_run(CONFIGS / f"{name}.yaml")
    assert isinstance(run, LatentDiffusionRun)
    return run


def _linear(i: int, o: int, bias: bool = True) -> int:
    return i * o + o * bias


def _conv(i: int, o: int) -> int:
    return 9 * i * o + o


def _res_block(i: int, o: int, time: int) -> int:
    skip = _linear(i, o) if i != o else 0  # a 1x1 convolution
    return 2 * i + _conv(i, o) + _linear(time, o) + 2 * o + _conv(o, o) + skip


def _transformer(c: int, context: int, depth: int) -> int:
    own = 3 * _linear(c, c, False) + _linear(c, c)
    cross = _linear(c, c, False) + 2 * _linear(context, c, False) + _linear(c, c)
    block = own + cross + _linear(c, 8 * c) + _linear(4 * c, c) + 3 * 2 * c
    return 2 * c + 2 * _linear(c, c) + depth * block if depth else 0


def _openai_unet(
    channels: int, base: int, mult: tuple[int, ...], depths: tuple[int, ...], middle: int, context: int, vector: int = 0
) -> int:
    """CompVis' openaimodel.UNetModel of num_res_blocks 2, with transformers of `depths` a level, adm_in `vector`."""
    time, last = 4 * base, len(mult) - 1
    total = _linear(base, time) + _linear(time, time) + _conv(channels, base)
    total += _linear(vector, time) + _linear(time, time) if vector else 0
    width, skips = base, [base]
    for level, factor in enumerate(mult):
        for _ in range(2):
            total += _res_block(width, factor * base, time) + _transformer(factor * base, context, depths[level])
            width = factor * base
            skips.append(width)
        if level < last:
            total += _conv(width, width)
            skips.append(width)
    total += 2 * _res_block(width, width, time) + _transformer(width, context, middle)
    for level in reversed(range(len(mult))):
        for _ in range(3):
            total += _res_block(width + skips.pop(), mult[level] * base, time)
            total += _transformer(mult[level] * base, context, depths[level])
            width = mult[level] * base
        total += _conv(width, width) if level else 0
    return total + 2 * width + _conv(width, channels)


def _counted(name: str) -> int:
    config = _run(name).unet
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(config).parameters())


@pytest.mark.parametrize("name", _PUBLISHED)
def test_networks_have_the_published_size(name):
    assert _counted(name) == _PUBLISHED[name]


def test_formulas_agree_with_published_sizes():
    assert _openai_unet(4, 320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 768) == _PUBLISHED["sd15"]
    assert _openai_unet(4, 320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 1024) == _PUBLISHED["sd21-v"]
    assert _openai_unet(4, 320, (1, 2, 4), (0, 2, 10), 10, 2048, 2816) == _PUBLISHED["sdxl"]


def test_class_conditional_network_has_the_size_of_cin256_v2():
    """attention_resolutions [8, 4, 2] are the second to fourth level; the ClassEmbedder has 1001 rows of 512."""
    assert _openai_unet(3, 192, (1, 2, 3, 5), (0, 1, 1, 1), 1, 512) + 1001 * 512 == _counted(_CLASSES) == 401_433_091


@pytest.mark.parametrize(
    ("name", "steps", "batch", "betas"),
    [
        ("sd15", 595_000, 2048, (0.00085, 0.012)),
        ("sd21-v", 210_000, 2048, (0.00085, 0.012)),
        ("sdxl", 600_000, 2048, (0.00085, 0.012)),
        (_CLASSES, 178_000, 1200, (0.0015, 0.0195)),
    ],
)
def test_numbers_are_those_of_the_sources(name, steps, batch, betas):
    run = _run(name)
    loop, diffusion = run.loop, run.diffusion
    assert (loop.steps, loop.batch_size, loop.learning_rate, loop.lr_shape) == (steps, batch, 1e-4, "constant")
    assert (diffusion.beta_start, diffusion.beta_end, diffusion.zero_terminal_snr) == (*betas, False)
    assert (loop.beta1, loop.beta2, loop.weight_decay, loop.clip_norm) == (0.9, 0.999, 0.01, 0)
    assert loop.ema_half_life == pytest.approx(batch * math.log(0.5) / math.log(0.9999), rel=1e-4)
    assert diffusion.prediction_type == ("v_prediction" if name == "sd21-v" else "epsilon")


class _Text(torch.nn.Module):
    """States of the right shape for any caption, as the frozen towers give them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self._config, self.widths = config, Widths(16, config.pooled_dim or 0)

    def encode(self, captions: list[str], device: torch.device) -> Conditioning:
        generator = torch.Generator().manual_seed(0)
        pooled = None if self._config.pooled_dim is None else torch.randn(len(captions), 8, generator=generator)
        return Conditioning(tokens=torch.randn(len(captions), 5, 16, generator=generator), pooled=pooled)


def _tiny(config: UNetConfig) -> UNetConfig:
    """The same structure: levels, blocks, which levels have transformers, conditioning."""
    return replace(
        config,
        widths=tuple(8 * (level + 1) for level in range(len(config.widths))),
        transformer_layers=tuple(min(depth, 2) for depth in config.transformer_layers),
        mid_transformer_layers=min(config.mid_transformer_layers, 2),
        num_heads=(2,) * len(config.widths) if max(config.num_heads) > 1 else config.num_heads,
        context_dim=16,
        norm_groups=4,
        pooled_dim=None if config.pooled_dim is None else 8,
        size_embedding_dim=None if config.size_embedding_dim is None else 4,
    )


@pytest.mark.parametrize("name", _NAMES)
def test_a_step_of_the_tiny_structure_lowers_the_loss(name):
    run = _run(name)
    torch.manual_seed(0)
    unet = UNet(_tiny(run.unet))
    channels = run.unet.out_channels
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8), latent_channels=channels, norm_groups=4))
    text = _Text(unet.config) if run.text else None
    frozen = FrozenParts(autoencoder, LatentFormat(channels=channels), text, states=text)
    objective = LatentDiffusionObjective(unet, frozen, run.diffusion)
    require_exportable(run.diffusion)
    loop = replace(run.loop, precision="fp32")
    module_name = TrainedModule.build("unet", unet, loop)
    batch = {
        "index": torch.arange(2),
        "mean": torch.randn(2, channels, 8, 8),
        "std": torch.zeros(2, channels, 8, 8),
        "caption": ["a", "b"],
        "label": torch.tensor([3, 999]),
        "sizes": torch.full((2, 6), 16.0),
    }
    losses = []
    for _ in range(2):
        module_name.update.start(1e-3)
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        loss = objective.loss("unet", batch, generators, 0)["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        module_name.step(module_name.update.norm(), loop.clip_norm, 2, 2)
    assert all(parameter.grad is not None for parameter in unet.parameters())
    assert losses[1] < losses[0]


def test_classes_are_read_as_tokens_and_survive_a_folder(tmp_path):
    from ldm.io.folder.unet import unet_config, unet_fields

    config = _tiny(_run(_CLASSES).unet)
    assert unet_config(unet_fields(config, None), "config.json")[0] == config
    assert "ldm_class_tokens" not in unet_fields(replace(config, class_tokens=False), None)
    assert UNet(config).class_embedding.weight.shape == (1001, 16)
    with pytest.raises(ValueError, match="class_tokens=True needs classes and transformers; num_classes=None"):
        replace(config, num_classes=None)


def test_a_model_with_class_tokens_draws_its_classes(tmp_path):
    torch.manual_seed(0)
    unet = UNet(_tiny(_run(_CLASSES).unet))
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8), latent_channels=3, norm_groups=4))
    frozen = FrozenParts(autoencoder, LatentFormat(channels=3, factor=2))
    objective = LatentDiffusionObjective(unet, frozen, _run(_CLASSES).diffusion)
    write_model(objective, 16, torch.float32, tmp_path, {"unet": unet})
    model = LatentDiffusion.from_pretrained(tmp_path)
    one, other = (model(label, num_inference_steps=2, seed=0, output_type="pt").images for label in ("3", "999"))
    assert one.shape == (1, 3, 16, 16) and not torch.equal(one, other)
