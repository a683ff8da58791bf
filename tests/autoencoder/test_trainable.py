"""Who trains whom: the balance of the trained modules, their isolation, the learned variance, frozen encoders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from regression import trainer_of
from safetensors.torch import load_file
from torch import nn

from autoencoder.build import build_autoencoder
from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.training.adversarial import adaptive_weight
from autoencoder.training.objective import AutoencoderObjective
from ldm.training.config import LoopConfig
from ldm.training.stages.autoencoder import write_autoencoder

KL = AutoencoderConfig(widths=(8, 16), norm_groups=2, blocks_per_level=1, mid_attention=False)
VQ = replace(KL, latent_channels=3, codebook_size=32)
PLAIN = LossConfig(perceptual_weight=0.0, kl_weight=1e-3)
ADVERSARIAL = replace(PLAIN, discriminator_weight=0.8, discriminator_width=8, discriminator_levels=2)
KINDS = pytest.mark.parametrize("config", [KL, VQ], ids=["KL", "VQ"])


@pytest.fixture(scope="module", autouse=True)
def fp32():
    """accelerate keeps one precision per process: these tests must not leave theirs to the next file."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(config: AutoencoderConfig, loss: LossConfig, decoder_only: bool = False) -> AutoencoderObjective:
    torch.manual_seed(0)
    return AutoencoderObjective(build_autoencoder(config), loss, decoder_only)


class Noise:
    """Eight pictures of 16 px."""

    weights = np.ones(8)

    def __len__(self) -> int:
        return 8

    def item(self, index: int, generator: torch.Generator) -> dict:
        return {"image": torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)) * 2 - 1}


def batch(count: int = 3) -> dict:
    return {"image": torch.stack([Noise().item(i, torch.Generator())["image"] for i in range(count)])}


def generators(count: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def loop(**changes) -> LoopConfig:
    settings = {"samples": 24, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0, "precision": "fp32"}
    return LoopConfig(**(settings | {"log_every": 0, "preview_every": 0, "previews": 2, "trackers": ()} | changes))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5, 0.0])
def test_adaptive_weight_is_the_ratio_of_gradients_with_vqgans_constant(scale: float) -> None:
    torch.manual_seed(0)
    last, features, target = nn.Conv2d(8, 3, 3), torch.randn(2, 8, 9, 9), torch.randn(2, 3, 7, 7)
    output = last(features)
    losses = (output - target).abs().mean(), -scale * output.sigmoid().mean()
    pushes = [torch.autograd.grad(loss * output.numel(), output, retain_graph=True)[0] for loss in losses]
    rec, gan = (torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm() for loss in losses)
    weight = adaptive_weight(output, last.weight, *pushes)
    torch.testing.assert_close(weight, (rec / (gan + 1e-4)).clamp(max=1e4), atol=0, rtol=1e-4)


@pytest.mark.slow
@KINDS
def test_discriminator_has_no_effect_before_its_start(config: AutoencoderConfig) -> None:
    """Ten steps with a discriminator that waits end with the bytes of ten steps without any."""
    ends = []
    for loss in (PLAIN, replace(ADVERSARIAL, discriminator_start=40)):
        objective = make(config, loss)
        judge = objective.trained_modules.get("discriminator")
        before = {} if judge is None else {name: value.clone() for name, value in judge.state_dict().items()}
        optimizers = {
            name: torch.optim.Adam(module_name.parameters(), 1e-3)
            for name, module_name in objective.trained_modules.items()
        }
        for step in range(10):
            for name, optimizer in optimizers.items():
                result = objective.loss(name, batch(4), generators(4), 4 * step)
                assert (result is None) == (name == "discriminator")
                if result is not None:
                    optimizer.zero_grad()
                    result["loss"].backward()
                    optimizer.step()
        ends.append(objective.trained_modules["autoencoder"].state_dict())
        assert judge is None or all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert objective.loss("discriminator", batch(), generators(), 40) is not None


@KINDS
@pytest.mark.parametrize("order", [("autoencoder", "discriminator"), ("discriminator", "autoencoder")])
def test_no_gradient_leaks_to_the_other_module(config: AutoencoderConfig, order: tuple[str, str]) -> None:
    objective = make(config, replace(ADVERSARIAL, learn_logvar=True, restart_codes=True))
    for name in order:
        for module_name in objective.trained_modules.values():
            module_name.zero_grad(set_to_none=True)
        objective.loss(name, batch(), generators(), 0)["loss"].backward()
        for other, module_name in objective.trained_modules.items():
            assert all((p.grad is not None) == (other == name) for p in module_name.parameters()), (name, other)


def test_logvar_divides_the_reconstruction_loss_as_in_a_gaussian_likelihood() -> None:
    objective = make(KL, replace(ADVERSARIAL, learn_logvar=True))
    objective.trained_modules["discriminator"].eval()
    module_name = objective.trained_modules["autoencoder"]
    with torch.no_grad():
        module_name.logvar.fill_(-0.7)
    result = objective.loss("autoencoder", batch(), generators(), 0)
    made, image = module_name(batch()["image"], generators()), batch()["image"]
    (output,) = (part.output for part in made.parts)
    likelihood = F.l1_loss(output, image) / module_name.logvar.exp() + module_name.logvar
    adversarial = -objective.trained_modules["discriminator"](output).mean()
    last = module_name.model.decoder.conv_out.weight
    rec, gan = (torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (likelihood, adversarial))
    expected = likelihood + (0.8 * rec / (gan + 1e-4)).detach() * adversarial + made.penalty
    torch.testing.assert_close(result["loss"], expected, atol=1e-5, rtol=1e-5)
    parameters = list(module_name.parameters())
    pairs = zip(torch.autograd.grad(result["loss"], parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_logvar_is_trained_saved_and_resumed_but_not_exported(tmp_path: Path) -> None:
    """It falls towards log of the reconstruction loss, where the derivative 1 - loss / exp(s) is 0."""
    loss = replace(PLAIN, learn_logvar=True)
    whole = make(KL, loss)
    trainer_of(whole, Noise(), loop(), tmp_path / "whole", write_autoencoder).fit()
    logvar = whole.trained_modules["autoencoder"].logvar.detach()
    assert float(logvar) < 0
    state = tmp_path / "whole" / "checkpoints" / "000000000024"
    assert torch.equal(load_file(state / "autoencoder.safetensors")["logvar"], logvar)
    assert float(load_file(state / "autoencoder_ema.safetensors")["logvar"]) < 0
    assert "exp_avg.logvar" in load_file(state / "autoencoder_optimizer.safetensors")

    trainer_of(
        make(KL, loss), Noise(), loop(samples=12, lr_shape="constant"), tmp_path / "half", write_autoencoder
    ).fit()
    resumed = make(KL, loss)
    trainer_of(resumed, Noise(), loop(lr_shape="constant"), tmp_path / "half", write_autoencoder).fit()
    straight = make(KL, loss)
    trainer_of(straight, Noise(), loop(lr_shape="constant"), tmp_path / "straight", write_autoencoder).fit()
    assert torch.equal(resumed.trained_modules["autoencoder"].logvar, straight.trained_modules["autoencoder"].logvar)
    exported = load_file(tmp_path / "whole" / "export" / "vae" / "diffusion_pytorch_model.safetensors")
    assert exported.keys() == build_autoencoder(KL).state_dict().keys()


def test_codebook_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Restarts are drawn from the samples' generators and rest on counts that the checkpoint holds."""
    loss = replace(ADVERSARIAL, restart_codes=True, code_memory=6.0)
    for samples, folder in ((12, "halves"), (24, "halves"), (24, "whole")):
        trainer_of(
            make(VQ, loss), Noise(), loop(samples=samples, lr_shape="constant"), tmp_path / folder, write_autoencoder
        ).fit()
    for name in ("autoencoder", "autoencoder_ema", "discriminator"):
        file = Path("checkpoints", "000000000024", f"{name}.safetensors")
        halves, whole = load_file(tmp_path / "halves" / file), load_file(tmp_path / "whole" / file)
        assert all(torch.equal(value, halves[key]) for key, value in whole.items()), name
        assert name == "discriminator" or whole["code_counts"].any()


@KINDS
def test_decoder_only_training_leaves_every_latent_as_it_was(config: AutoencoderConfig, tmp_path: Path) -> None:
    objective = make(config, replace(ADVERSARIAL, restart_codes=True), decoder_only=True)
    before = {name: value.clone() for name, value in objective.autoencoder.state_dict().items()}
    trainer_of(objective, Noise(), loop(weight_decay=0.1), tmp_path, write_autoencoder).fit()
    state = tmp_path / "checkpoints" / "000000000024"
    trained = load_file(state / "autoencoder.safetensors"), load_file(state / "autoencoder_ema.safetensors")
    exported = load_file(tmp_path / "export" / "vae" / "diffusion_pytorch_model.safetensors")
    for name, value in before.items():
        frozen = name.split(".")[0] in ("encoder", "quant_conv", "quantize")
        assert torch.equal(exported[name], value) == frozen, name
        for saved in trained:
            after = saved.get(f"model.{name}")
            assert after is None if frozen else not torch.equal(after, value), name


@KINDS
def test_all_of_the_autoencoder_is_trained_without_that_option(config: AutoencoderConfig) -> None:
    objective = make(config, PLAIN)
    objective.loss("autoencoder", batch(), generators(), 0)["loss"].backward()
    assert all(p.grad is not None for p in objective.autoencoder.parameters())


def test_latents_that_are_averaged_decode_to_averaged_pictures() -> None:
    """At a fraction of 1 loss and gradient are those of |decode(mean of z + u s std(z) n) - mean of x|."""
    loss = replace(PLAIN, kl_weight=0.1, equivariance_fraction=1.0, latent_noise=0.3)
    objective, image = make(KL, loss), batch(3)["image"]
    result, model = objective.loss("autoencoder", batch(3), generators(3), 0), objective.autoencoder
    posterior, disturbed = model.encode(image), []
    for i, generator in enumerate(generators(3)):
        sample = posterior.mean[i] + (0.5 * posterior.logvar[i]).exp() * torch.randn(
            posterior.mean.shape[1:], generator=generator
        )
        torch.rand((), generator=generator)  # whether this one is averaged
        z = F.avg_pool2d(sample, 2)
        amount = torch.rand((), generator=generator)
        disturbed.append(z + amount * 0.3 * z.std(correction=0) * torch.randn(z.shape, generator=generator))
    output, target = model.decode(torch.stack(disturbed)), F.avg_pool2d(image, 2)
    expected = F.l1_loss(output, target) + 0.1 * posterior.kl().mean() / image[0].numel()
    torch.testing.assert_close(result["loss"], expected, atol=1e-6, rtol=1e-5)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(result["loss"], parameters), torch.autograd.grad(expected, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


@KINDS
def test_which_latents_are_averaged_and_disturbed_belongs_to_the_sample(config: AutoencoderConfig) -> None:
    """So the loss of a batch is the mean of those of its samples, some averaged and some not."""
    objective = make(config, replace(PLAIN, equivariance_fraction=0.5, latent_noise=0.2))
    image, module = batch(8)["image"], objective.trained_modules["autoencoder"].eval()
    heights = {part.target.shape[2]: len(part.target) for part in module(image, generators(8)).parts}
    assert heights.keys() == {image.shape[2], image.shape[2] // 2} and sum(heights.values()) == 8
    whole = objective.loss("autoencoder", {"image": image}, generators(8), 0)
    alone = [
        objective.loss("autoencoder", {"image": image[i : i + 1]}, [generators(8)[i]], 0)["loss"] for i in range(8)
    ]
    torch.testing.assert_close(torch.stack(alone).mean(), whole["loss"], atol=1e-6, rtol=1e-5)


@KINDS
def test_a_discriminator_judges_averaged_pictures_too(config: AutoencoderConfig) -> None:
    objective = make(config, replace(ADVERSARIAL, equivariance_fraction=0.5, latent_noise=0.1))
    objective.trained_modules["discriminator"].eval()
    objective.trained_modules["autoencoder"].eval()
    images = batch(8)
    scored = objective.loss("autoencoder", images, generators(8), 0)
    remembered = objective.loss("discriminator", images, generators(8), 0)
    afresh = objective.loss("discriminator", images, generators(8), 0)
    torch.testing.assert_close(remembered["loss"], afresh["loss"])
    assert all(value.isfinite() for value in (*scored.values(), *afresh.values()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"equivariance_fraction": 1.5}, "equivariance_fraction=1.5 is a share"),
        ({"latent_noise": -1.0}, "latent_noise=-1.0 is negative"),
    ],
)
def test_impossible_disturbances_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)
