"""Samples/s of one denoiser training step, ours against diffusers' own: `python -m benchmarks.training emoji sd-half`.

Both train the same U-Net from the same weights with the same batch in the same number format (`--precision`, autocast)
in turn, step by step, each in a process of its own, because `Trainer` also sets how its process holds memory
(`--same-memory` sets it in theirs too: then the steps alone are compared). Ours is
the step of `ldm.training.loop.Trainer`. Theirs is that of diffusers' `examples/text_to_image/train_text_to_image.py`
with `--use_ema`: encode with the VAE and the text tower (frozen, in the low precision), `DDPMScheduler.add_noise`,
`UNet2DConditionModel`, mean squared error, gradient clipping, AdamW, `EMAModel`. Captions are tokenized beforehand for
diffusers, whose loader does it, and inside the step for us. `live` encodes pictures and captions in the step; `cached`
takes the moments of the latents and the states of the captions from a cache, as `cache_latents` and `cache_text` do.
diffusers' script has no such options, so its `cached` step is that script with VAE and text tower taken out. Pictures
are noise: they cost what others cost.

`--profile` shows where the time of our step goes instead. Needs diffusers.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from benchmarks.training_cases import CAPTION, CASES, Case, Pictures
from conditioning.bundle import Conditioning
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.text_states import TextStates, encode_captions
from ldm.engine.memory import keep_freed_memory
from ldm.families.parts import ModelParts
from ldm.io.folder.load import load_folder, save_folder
from ldm.training.config import LoopConfig
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.distributed.processes import init_processes
from ldm.training.loop import Trainer
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective
from ldm.training.stages.base import Stage
from ldm.training.stages.latent_diffusion import LatentDiffusionRun

LATENTS = ("live", "cached")
STEP = "samples/s"
Step = Callable[[str], None]


class _SwitchedStates(TextStates):
    """The states of the one caption: from disk if `cached`, else from the encoder in every step."""

    cached = True

    def __init__(self, text: TextEncoder, folder: Path, device: torch.device) -> None:
        super().__init__(text, [CAPTION], folder, device)

    def encode(self, captions: Sequence[str], device: torch.device) -> Conditioning:
        return super().encode(captions, device) if self.cached else encode_captions(self._text, captions, device)


class Ours:
    """The step of `Trainer`. Call with one of `LATENTS`."""

    def __init__(self, case: Case, parts: ModelParts, precision: str, folder: Path) -> None:
        config = DiffusionConfig(
            prediction_type="epsilon", zero_terminal_snr=False, weighting="constant", condition_dropout=0.0
        )
        device = init_processes()
        assert parts.text is not None
        self._states = _SwitchedStates(parts.text, folder, device)
        frozen = FrozenParts(parts.autoencoder, parts.latent_format, parts.text, states=self._states)
        objective = self.objective = LatentDiffusionObjective(parts.unet.requires_grad_(True), frozen, config)
        loop = LoopConfig(batch_size=case.batch, samples=2**40, precision=precision)
        sets = {name: Pictures(case, parts, name == "cached") for name in LATENTS}
        stage = Stage(objective, sets["live"], sets["live"], lambda folder, modules: None)
        self.trainer = Trainer(stage, LatentDiffusionRun(output=str(folder), loop=loop))
        for module in (parts.autoencoder, parts.text):
            module.to(device)
        self._batches = {name: pictures.batch(device) for name, pictures in sets.items()}

    def __call__(self, latents: str) -> None:
        """One step of ours, on `cached` or live latents."""
        self._states.cached = latents == "cached"
        self.trainer._step([self._batches[latents]])


class Theirs:
    """The step of diffusers' script on the model in `folder`. Call with one of `LATENTS`."""

    def __init__(self, case: Case, parts: ModelParts, precision: str, folder: Path) -> None:
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from diffusers.training_utils import EMAModel
        from transformers import CLIPTextModel

        self.accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
        device = self.accelerator.device
        low = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
        self.scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").requires_grad_(False).to(device, low)
        text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=low)
        self.text = text.requires_grad_(False).to(device)
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").train()
        self.ema = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)
        self.ema.to(device)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        self.unet, self.optimizer, self.schedule = self.accelerator.prepare(unet, optimizer, schedule)
        assert parts.text is not None
        ids = parts.text.tokenize([CAPTION] * case.batch)[0].to(device)
        self._batch = {"ids": ids}
        for name in LATENTS:
            self._batch |= Pictures(case, parts, name == "cached").batch(device)
        self._batch["tokens"] = self.text(ids, return_dict=False)[0].detach()
        self._low = low

    def _latents(self, latents: str) -> Tensor:
        if latents == "live":
            drawn = self.vae.encode(self._batch["image"].to(self._low)).latent_dist.sample()
        else:
            drawn = self._batch["mean"] + self._batch["std"] * torch.randn_like(self._batch["mean"])
        return drawn * self.vae.config.scaling_factor

    def __call__(self, latents: str) -> None:
        """One step of the other trainer, on `cached` or live latents."""
        drawn = self._latents(latents)
        noise = torch.randn_like(drawn)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(drawn),), device=drawn.device)
        noisy = self.scheduler.add_noise(drawn, noise, times.long())
        live = latents == "live"
        tokens = self.text(self._batch["ids"], return_dict=False)[0] if live else self._batch["tokens"]
        prediction = self.unet(noisy, times, tokens, return_dict=False)[0]
        loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
        self.accelerator.gather(loss.repeat(len(drawn))).mean().item()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.ema.step(self.unet.parameters())


def measure(
    case: Case, precision: str, rounds: int, folder: Path, same_memory: bool = False
) -> dict[tuple[str, str], list[float]]:
    """Samples/s of `rounds` steps by (who, latents), one of each in turn, after two of each that are not counted.

    same_memory: diffusers' process holds its memory as ours does.
    """
    parts = case.make()
    save_folder(parts, folder)
    ours = partial(_seconds, Ours(case, parts, precision, folder / "run"))
    same = replace(case, make=partial(load_folder, folder))
    with ProcessPoolExecutor(1, get_context("spawn"), _be_theirs, (same, precision, folder, same_memory)) as elsewhere:
        sides: dict[str, Callable[[str], float]] = {
            "ldm": ours,
            "diffusers": lambda how: elsewhere.submit(_their_seconds, how).result(),
        }
        found: dict[tuple[str, str], list[float]] = {(who, how): [] for who in sides for how in LATENTS}
        for turn in track(range(rounds + 2), description=folder.name):
            for who, how in found:
                seconds = sides[who](how)
                if turn >= 2:
                    found[who, how].append(case.batch / seconds)
    return found


_theirs: Step


def _be_theirs(case: Case, precision: str, folder: Path, same_memory: bool) -> None:
    """Make this process the one that takes diffusers' steps."""
    global _theirs
    if same_memory:
        keep_freed_memory()
    _theirs = Theirs(case, case.make(), precision, folder)


def _their_seconds(how: str) -> float:
    return _seconds(_theirs, how)


def _seconds(step: Step, how: str) -> float:
    started = _clock()
    step(how)
    return _clock() - started


def _clock() -> float:
    """Seconds. With one thread on a CPU, those of this process: what others do on the core does not count."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def table(measured: dict[str, dict[tuple[str, str], list[float]]]) -> str:
    """Medians by case, and the ratio of ours to diffusers'."""
    lines = [f"| case | ours, {STEP} | diffusers' | ratio |", "|---|---|---|---|"]
    for name, found in measured.items():
        middle = {key: median(values) for key, values in found.items()}
        for ours, theirs in (("live", "live"), ("cached", "live"), ("cached", "cached")):
            a, b = middle["ldm", ours], middle["diffusers", theirs]
            what = f"{name}: ours {ours}, theirs {theirs}"
            lines.append(f"| {what} | {a:.3g} | {b:.3g} | {a / b:.2f} |")
    return "\n".join(lines)


@contextmanager
def timed(places: dict[str, list[tuple[Any, str]]]) -> Iterator[dict[str, float]]:
    """Add up the seconds that methods `(object, name)` take, under the names of `places`; the methods come back."""
    spent = dict.fromkeys(places, 0.0)

    def clocked(label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            started = _clock()
            try:
                return method(*args, **named)
            finally:
                spent[label] += _clock() - started

        return call

    for label, methods in places.items():
        for owner, name in methods:
            setattr(owner, name, clocked(label, getattr(owner, name)))
    try:
        yield spent
    finally:
        for methods in places.values():
            for owner, name in methods:
                delattr(owner, name)


KINDS = {
    "convolutions": ("conv", "mkldnn"),
    "matrix products": ("mm", "linear", "addmm", "bmm"),
    "attention": ("scaled_dot", "softmax", "attention"),
    "AdamW": ("adam",),
    "norms": ("norm", "_ChannelsLast"),
    "copies and casts": ("copy", "cat", "contiguous", "clone", "empty", "zero", "fill", "index"),
}
"""Kinds of arithmetic by parts of PyTorch's names; the first that fits counts."""


def kinds(step: Callable[[], None]) -> dict[str, float]:
    """Seconds of one step by the kind of arithmetic, as torch's profiler sees it on the CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    found = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(p in event.key for p in parts)), "the rest")
        found[kind] += event.self_cpu_time_total / 1e6
    return found


def profile(case: Case, precision: str, rounds: int, folder: Path) -> str:
    """Two tables: the shares of a step's stages by the clock (medians), and of kinds of arithmetic by the profiler."""
    parts = case.make()
    ours = Ours(case, parts, precision, folder / "run")
    (module_name,) = ours.trainer.trained_modules.values()
    places: dict[str, list[tuple[Any, str]]] = {
        "the whole step": [(ours.trainer, "_step")],
        "latents": [(ours.objective.batches, "latent")],
        "captions": [(ours.objective.batches, "conditioning")],
        "network, forward": [(module_name.module, "forward")],
        "backward": [(ours.trainer.accelerator, "backward")],
        "optimizer": [(optimizer, "step") for optimizer in module_name.optimizers],
        "average": [(average, "update") for average in module_name.averages],
    }
    lines = ["| stage | live, ms | cached, ms |", "|---|---|---|"]
    columns = []
    for how in LATENTS:
        ours(how)
        seconds = []
        for _ in range(rounds):
            with timed(places) as spent:
                ours(how)
            spent["draws, loss, gradient norm, clipping"] = 2 * spent["the whole step"] - sum(spent.values())
            seconds.append(spent)
        columns.append({name: median(each[name] for each in seconds) for name in seconds[0]})
    for name in columns[0]:
        lines.append(f"| {name} | " + " | ".join(f"{1000 * column[name]:.3g}" for column in columns) + " |")
    split = kinds(lambda: ours("cached"))
    whole = sum(split.values())
    lines += ["", "| arithmetic of a cached step | share |", "|---|---|"]
    lines += [f"| {kind} | {seconds / whole:.0%} |" for kind, seconds in split.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure the cases named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["emoji"], help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--gpu", action="store_true", help="on the CUDA GPU; else on the CPU")
    parser.add_argument("--same-memory", action="store_true", help="diffusers' process holds memory as ours does (CPU)")
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes")
    asked = parser.parse_args()
    if not asked.gpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    measured, profiles = {}, []
    for name in asked.cases:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            if asked.profile:
                profiles.append(profile(CASES[name], asked.precision, asked.rounds, folder))
            else:
                measured[name] = measure(CASES[name], asked.precision, asked.rounds, folder, asked.same_memory)
    print("\n\n".join(profiles) if asked.profile else table(measured))


if __name__ == "__main__":
    main()
