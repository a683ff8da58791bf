"""The stage `distill` from a teacher's files to what users open: whole models and LoRAs of every family."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import CONFIGS
from families import PROMPTS, make_family, save
from picture_files import png, put
from safetensors.torch import load_file, save_file
from single_files import whole_file
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import ClipText
from conditioning.training.tower_shapes import lengthened
from ldm import LatentDiffusion
from ldm.io.folder.load import load_folder, load_text
from ldm.io.folder.text_encoder import save_text_encoder
from ldm.training.batches.sample_order import generator_for
from ldm.training.estimate.estimate import Hardware, estimate_training
from ldm.training.loop import Trainer
from ldm.training.objectives.base import Batch, Validated
from ldm.training.stages.config_file import load_run
from ldm.training.stages.distill import LORA_FILE, DistillRun
from ldm.training.stages.train import train

_QUICK = ["loop.samples=8", "loop.batch_size=4", "loop.previews=2", "loop.log_every=4", "loop.warmup=0"]
_QUICK += ["loop.precision=fp32", "loop.micro_batch_size=4", "loop.trackers=[]"]
_QUICK += ["loop.learning_rate=1.0e-3", "loop.lr_shape=constant", "loop.ema_half_life=4", "loop.validation_samples=2"]
_STEPS = ["distillation.teacher_steps=4", "distillation.student_steps=2", "export_dtype=fp32", "data.size=32"]
_ODD_STEPS = ["distillation.method=progressive", "distillation.teacher_steps=5"]
_LORA = ["lora_rank=2", "distillation.method=consistency", "distillation.huber=0.001"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files: dict[str, bytes | str] = {f"{i}.png": png(i, 32) for i in range(8)}
    return put(tmp_path_factory.mktemp("pictures"), files | {f"{i}.txt": f"a red apple {i}" for i in range(8)})


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's folder as diffusers saves it; made once."""
    known: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = save(make_family(name, folder), folder / "model")
        return known[name]

    return get


def _run(teacher: Path, pictures: Path, output: Path, *more: str, config: str = "emoji/distill") -> DistillRun:
    where = [f"teacher={teacher}", f"data.folder={pictures}", f"output={output}", "data.kind_weights={}"]
    where += ['initial_lora=""']  # that of a config is of the shipped model
    run = load_run(CONFIGS / f"{config}.yaml", [*where, *_QUICK, *_STEPS, *more])
    assert isinstance(run, DistillRun)
    return run


def _answer(unet: nn.Module, tokens: Tensor) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return unet(x, torch.tensor([3.0, 700.0]), Conditioning(tokens=tokens))


def _answer_with_gradient(unet: nn.Module, tokens: Tensor) -> Tensor:
    return unet(torch.ones(2, 4, 8, 8), torch.tensor([3.0, 700.0]), Conditioning(tokens=tokens))


def _average(trainer: Trainer) -> nn.Module:
    return trainer.trained_modules["unet"].weights(None)


@pytest.mark.parametrize(
    ("family", "method"), [("sd1", "guidance"), ("sd1", "consistency"), ("zero-snr", "progressive")]
)
def test_a_student_is_a_model_of_few_unguided_steps_and_diffusers_draws_the_same(
    family: str, method: str, teachers: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    teacher = teachers(family)
    trainer = train(_run(teacher, pictures, tmp_path, f"distillation.method={method}", "loop.validate_every=4"))
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert all(0 < line["unet/loss"] < float("inf") for line in lines if "unet/loss" in line)
    assert any("validation/loss" in line for line in lines) and list((tmp_path / "previews").iterdir())

    student = LatentDiffusion.from_pretrained(tmp_path / "export")
    defaults, before = student.parts.defaults, load_folder(teacher)
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (2, 1.0)
    assert (defaults.sampler, defaults.schedule, defaults.width) == ("ddim", "trailing", 32)
    assert (student.parts.process, student.parts.prediction_type) == (before.process, before.prediction_type)
    for name, value in _average(trainer).state_dict().items():
        assert torch.equal(value, student.parts.unet.state_dict()[name]), name
    assert not torch.equal(student.parts.unet.conv_in.weight, before.unet.conv_in.weight)

    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "export", safety_checker=None)
    assert isinstance(theirs.scheduler, DDIMScheduler)
    assert theirs.scheduler.config.timestep_spacing == "trailing"
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(PROMPTS, latents=latents, num_inference_steps=2, guidance_scale=1.0, output_type="pt").images
    found = student(PROMPTS, latents=latents, output_type="pt").images
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    assert expected.std() > 0.01


@pytest.mark.parametrize("config", ["emoji/distill", "emoji/few_steps", "sd15-distill-lora"])
def test_a_lora_is_the_students_change_of_the_teacher(
    config: str, teachers: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    teacher = teachers("sd1")
    trainer = train(_run(teacher, pictures, tmp_path, *_LORA, config=config))
    file = tmp_path / "export" / LORA_FILE
    assert [path.name for path in (tmp_path / "export").iterdir()] == [LORA_FILE]
    assert all(key.startswith("lora_unet_") for key in load_file(file))
    model = LatentDiffusion.from_pretrained(teacher)
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(8))
    without = _answer(model.parts.unet, tokens)
    report = model.load_lora(file)
    assert report.matched == report.total == sum("parametrizations" in key for key in _trained(tmp_path)) / 2
    merged, expected = _answer(model.parts.unet, tokens), _answer(_average(trainer), tokens)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert (merged - without).abs().max() > 1e-3
    model.loras.unload()
    assert torch.equal(_answer(model.parts.unet, tokens), without)


def test_diffusers_reads_the_lora(teachers: Callable[[str], Path], pictures: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    trainer = train(_run(teachers("sd1"), pictures, tmp_path, *_LORA))
    theirs = StableDiffusionPipeline.from_pretrained(teachers("sd1"), safety_checker=None)
    theirs.load_lora_weights(tmp_path / "export", weight_name=LORA_FILE)
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(8))
    found = _answer(lambda x, t, c: theirs.unet(x, t, encoder_hidden_states=c.tokens).sample, tokens)
    torch.testing.assert_close(found, _answer(_average(trainer), tokens), rtol=1e-3, atol=1e-3)


def test_a_lora_is_trained_on_from_a_file(
    teachers: Callable[[str], Path], pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = teachers("sd1")
    train(_run(teacher, pictures, tmp_path / "first", *_LORA))
    file = tmp_path / "first" / "export" / LORA_FILE
    model = LatentDiffusion.from_pretrained(teacher)
    model.load_lora(file)
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(8))
    more = [*_LORA, "lora_rank=4", f"initial_lora={file}"]
    stage = _run(teacher, pictures, tmp_path / "second", *more).build(torch.device("cpu"))
    begun = stage.objective.trained_modules["unet"]
    torch.testing.assert_close(_answer(begun, tokens), _answer(model.parts.unet, tokens), rtol=1e-4, atol=1e-4)
    trained = [each for each in begun.parameters() if each.requires_grad]
    _answer_with_gradient(begun, tokens).square().mean().backward()
    assert trained and all(each.grad is not None for each in trained)

    whole = tmp_path / "whole.safetensors"  # as `ldm convert --to lora` and `text` write it: more than is trained
    bias = model.parts.text.model.encoder.layers[0].mlp.fc1.bias
    more_layers = {
        "lora_unet_conv_in.diff_b": torch.ones(8),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.diff_b": torch.ones_like(bias),
    }
    save_file(load_file(file) | more_layers, whole)
    with caplog.at_level("WARNING"):
        stage = _run(teacher, pictures, tmp_path / "second", *more, f"initial_lora={whole}").build(torch.device("cpu"))
    assert "2 of its" in caplog.text
    again = stage.objective.trained_modules["unet"]
    torch.testing.assert_close(_answer(again, tokens), _answer(begun, tokens), rtol=0, atol=0)

    too_small = [*_LORA, "lora_rank=1", f"initial_lora={file}"]
    with pytest.raises(ValueError, match=r"rank 2 at unet\..*; set lora_rank=2"):
        _run(teacher, pictures, tmp_path / "third", *too_small).build(torch.device("cpu"))
    model.loras.unload()
    words = tmp_path / "words.safetensors"
    save_file(
        {
            "lora_unet_conv_in.lora_up.weight": torch.ones(8, 1, 1, 1),
            "lora_unet_conv_in.lora_down.weight": torch.ones(1, 4, 3, 3),
        },
        words,
    )
    with pytest.raises(ValueError, match=r"initial_lora=.* changes no layer that is trained here"):
        _run(teacher, pictures, tmp_path / "third", *_LORA, f"initial_lora={words}").build(torch.device("cpu"))


def _other_words(teacher: Path, folder: Path) -> ClipText:
    """A text tower of the teacher's shape with other weights everywhere, as an export of `image_tokens` has it."""
    text = load_text(teacher)
    assert isinstance(text, ClipText)
    generator = torch.Generator().manual_seed(5)
    for parameter in text.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir()
    save_text_encoder(text, folder, None)
    return text


def test_a_student_can_read_with_a_text_tower_of_its_own(
    teachers: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    teacher = teachers("sd1")
    tower = _other_words(teacher, tmp_path / "words")
    text = f"text={tmp_path / 'words'}"
    trainer = train(_run(teacher, pictures, tmp_path / "lora", *_LORA, text))
    model = LatentDiffusion.from_pretrained(teacher)
    before = model.parts.text.encode(PROMPTS).tokens  # type: ignore[union-attr]
    report = model.load_lora(tmp_path / "lora" / "export" / LORA_FILE)
    assert not report.unmatched and report.towers["text_encoder"] == len(list(tower.model.parameters()))
    found, wanted = model.parts.text.encode(PROMPTS).tokens, tower.encode(PROMPTS).tokens  # type: ignore[union-attr]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - before).abs().max() > 0.1
    answers = _answer(model.parts.unet, found), _answer(_average(trainer), wanted)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-3)

    train(_run(teacher, pictures, tmp_path / "whole", text))
    whole = load_text(tmp_path / "whole" / "export")
    torch.testing.assert_close(whole.encode(PROMPTS).tokens, wanted, rtol=1e-5, atol=1e-5)

    (tmp_path / "longer").mkdir()
    save_text_encoder(lengthened(tower, 2), tmp_path / "longer", None)
    with pytest.raises(ValueError, match=r"text=.* is of another shape than the teacher's text tower"):
        _run(teacher, pictures, tmp_path / "no", f"text={tmp_path / 'longer'}").build(torch.device("cpu"))


def _trained(output: Path, name: str = "unet") -> dict[str, Tensor]:
    newest = sorted((output / "checkpoints").glob("[0-9]*"))[-1]
    return load_file(newest / f"{name}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], _LORA], ids=["progressive", "lora"])
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    more: list[str], teachers: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    settings = [*more, "loop.samples=16", "loop.save_every=4", "loop.save_minutes=0"]
    train(_run(teachers("zero-snr"), pictures, tmp_path / "whole", *settings))
    child = os.fork()
    if child == 0:  # dies in the midst of the third step
        try:
            run = _run(teachers("zero-snr"), pictures, tmp_path / "killed", *settings)
            _killed_at(run, 8)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "export").exists()
    trainer = train(_run(teachers("zero-snr"), pictures, tmp_path / "killed", *settings))
    assert trainer.samples_seen == 16
    for name in ("unet", "unet_ema", "unet_optimizer"):
        mine, theirs = (_trained(tmp_path / folder, name) for folder in ("killed", "whole"))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
        if more:
            assert all("parametrizations.weight.0" in key for key in mine), "frozen weights are not kept"
    for file in (tmp_path / "whole" / "export").rglob("*.safetensors"):
        mine, theirs = load_file(tmp_path / "killed" / file.relative_to(tmp_path / "whole")), load_file(file)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine | theirs), file.name


def _killed_at(run: DistillRun, samples: int) -> None:
    """Train until so many samples were seen, and die like one whose power fails."""
    torch.set_num_threads(1)
    torch.manual_seed(run.loop.seed)
    stage = run.build(torch.device("cpu"))
    loss = stage.objective.loss

    def dying(
        module_name: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        if samples_seen >= samples:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(module_name, batch, generators, samples_seen)

    stage.objective.loss = dying  # type: ignore[method-assign]
    Trainer(stage, run).fit()


def test_sdxl_is_guided_away_from_zeros(teachers: Callable[[str], Path], pictures: Path, tmp_path: Path) -> None:
    """At scale 0 the target is the teacher's answer to the empty prompt, which Stable Diffusion XL has as zeros."""
    settings = ["distillation.method=guidance", "distillation.guidance_scale=0"]
    stage = _run(teachers("sdxl"), pictures, tmp_path, *settings).build(torch.device("cpu"))
    parts = load_folder(teachers("sdxl"))

    class Zeros(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = parts.unet

        def forward(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
            assert conditioning.tokens is not None and conditioning.pooled is not None
            tokens, pooled = (torch.zeros_like(each) for each in (conditioning.tokens, conditioning.pooled))
            return self.unet(x, time, Conditioning(tokens=tokens, pooled=pooled, sizes=conditioning.sizes))

    batch = _first(stage.dataset)
    assert isinstance(stage.objective, Validated)
    quantiles = torch.tensor([0.2, 0.9], dtype=torch.float64)
    with torch.no_grad():
        for module, zero in ((Zeros(), True), (parts.unet, False)):
            errors = stage.objective.errors(batch, {"unet": module}, [generator_for(0, i) for i in range(2)], quantiles)
            assert (errors.max() < 1e-8) == zero
    stage.export(tmp_path, {"unet": parts.unet})
    assert load_folder(tmp_path).zeros_for_empty


def _first(dataset: Any) -> Batch:
    from torch.utils.data import default_collate

    return {**default_collate([dataset.item(i, generator_for(0, i)) for i in range(2)]), "index": torch.arange(2)}


def test_a_single_file_is_a_teacher(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "sd1.safetensors"
    save_file(whole_file("sd1")[0], file)
    run = _run(file, pictures, tmp_path / "out", "loop.samples=4", "data.size=64", *_LORA)
    train(run)
    assert LatentDiffusion.from_single_file(file).load_lora(tmp_path / "out" / "export" / LORA_FILE).unmatched == ()
    assert estimate_training(run, Hardware()).networks[0].trained > 0


def test_the_plan_counts_what_is_trained(teachers: Callable[[str], Path], pictures: Path, tmp_path: Path) -> None:
    hardware = Hardware()
    whole, lora = (
        estimate_training(_run(teachers("sd1"), pictures, tmp_path, *more), hardware, 4) for more in ([], _LORA)
    )
    parameters = sum(p.numel() for p in load_folder(teachers("sd1")).unet.parameters())
    assert whole.networks[0].trained == whole.networks[0].parameters == parameters
    trainer = train(_run(teachers("sd1"), pictures, tmp_path, *_LORA, "loop.samples=4"))
    trained = sum(p.numel() for p in trainer.trained_modules["unet"].module.parameters() if p.requires_grad)
    assert lora.networks[0].trained == trained < parameters
    assert lora.checkpoint_bytes < whole.checkpoint_bytes
    assert "teacher" in whole.networks[0].note


def test_the_recipe_of_the_shipped_model_has_its_shape() -> None:
    (network,) = load_run(CONFIGS / "emoji" / "distill.yaml").networks(4)
    with torch.device("meta"):
        built = network.build().state_dict()
    shipped = LatentDiffusion.from_pretrained("emoji").parts.unet.state_dict()
    assert {name: value.shape for name, value in built.items()} == {n: v.shape for n, v in shipped.items()}


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("inpainting", [], "teacher is a model for inpainting, which cannot be distilled"),
        (
            "sd1",
            ["distillation.method=progressive", "distillation.teacher_steps=5"],
            "teacher_steps=5 does not visit the times of student_steps=2",
        ),
        ("sd1", ["lora_rank=-1"], "lora_rank=-1 is negative"),
        ("sd1", ["initial_lora=x.safetensors"], "initial_lora=x.safetensors is for a LoRA that is trained"),
        ("sd1", ["cache_text=never"], "unknown cache_text .never."),
        ("sd1", ["data.crop_fraction=0.5"], "cache_latents=false"),
        ("sd1", ["data.buckets.step=2"], "data.buckets.step=2 is not a multiple of the autoencoder's factor 4"),
    ],
)
def test_what_cannot_be_distilled_is_refused(
    family: str, settings: list[str], message: str, teachers: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        _run(teachers(family), pictures, tmp_path, *settings).build(torch.device("cpu"))
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_does_not_exist_is_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"teacher: model .*nowhere"):
        _run(tmp_path / "nowhere", pictures, tmp_path).build(torch.device("cpu"))
