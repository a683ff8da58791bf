"""How far each sampler is from its own limit, over network calls: `python benchmarks/samplers.py`.

Draws the same prompt and seed with every sampler at growing numbers of steps and compares the latents with those of
1,000 steps: for deterministic samplers the solution of the probability-flow ODE, for the others what they draw
themselves. Those that draw fresh noise in every step have no limit to approach, which the plot shows.
Writes the table, the plot and the sheet of docs/samplers.md; with `--only dpm_fast er_sde` it prints those rows and
writes nothing. Needs `ldm[bench]`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from conditioning.prompt.encoder import PromptEncoder
from ldm import LatentDiffusion
from ldm.denoiser import Denoiser, NetworkDenoiser, Prediction
from ldm.guidance import GuidanceSettings, guide
from ldm.noise import NoiseSource
from ldm.samplers import SAMPLER_TABLE, SAMPLERS, make_sampler
from ldm.schedules import make_grid

PROMPTS = ["a smiling face, noto style"]
STEPS = (4, 6, 8, 12, 16, 24, 32, 48)
SHEET_STEPS = (4, 8, 16, 32)
REFERENCE_STEPS = 1000
REFERENCE_SAMPLER = "dpmpp_2m"
SCHEDULE = "trailing"
CALLS = 20
PANELS = {
    "none": "no noise: from the ODE's solution",
    "same": "the same noise for any steps: from its own limit",
    "fresh": "fresh noise: from its own 1,000 steps",
}
DOCS = Path(__file__).parent.parent / "docs"
MARKS = "<!-- table: benchmarks/samplers.py -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Measured:
    """Network calls of a drawing, and the root mean square of its latents' error over that of the reference."""

    calls: int
    error: float


class Counted:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser, self.process, self.calls = denoiser, denoiser.process, 0

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The denoiser's prediction, counted."""
        self.calls += 1
        return self._denoiser(x, t)


@torch.inference_mode()
def draw(model: LatentDiffusion, prompts: Sequence[str], sampler: str, steps: int) -> tuple[Tensor, int]:
    """(latents (B, C, h, w), network calls) of the prompts with seeds 0, 1, ..."""
    parts = model.parts
    assert parts.text is not None
    conditioning = PromptEncoder(parts.text).encode([*prompts, ""])
    source = NetworkDenoiser(parts.unet, parts.process, parts.prediction_type, conditioning[: len(prompts)])
    settings = GuidanceSettings(guidance_scale=parts.defaults.guidance_scale)
    denoise = Counted(guide(source, conditioning[len(prompts) :], settings))
    factor = parts.latent_format.factor
    shape = parts.latent_format.channels, parts.defaults.height // factor, parts.defaults.width // factor
    noise = NoiseSource(range(len(prompts)), shape)
    grid = make_grid(SCHEDULE, parts.process, steps)
    x = parts.process.initial(noise(), grid[0])
    for step in make_sampler(sampler)(denoise, x, grid, noise):
        x = step.x
    return x, denoise.calls


def measure(
    model: LatentDiffusion, prompts: Sequence[str], samplers: Sequence[str], steps: Sequence[int], reference_steps: int
) -> dict[str, list[Measured]]:
    """The error of every sampler at every number of steps."""
    ode = draw(model, prompts, REFERENCE_SAMPLER, reference_steps)[0]
    measured = {}
    for name in track(samplers, description="samplers"):
        limit = draw(model, prompts, name, reference_steps)[0] if SAMPLER_TABLE[name].stochastic else ode
        drawn = [draw(model, prompts, name, n) for n in steps]
        measured[name] = [
            Measured(calls, ((x - limit).square().mean() / limit.square().mean()).sqrt().item()) for x, calls in drawn
        ]
    return measured


def table(measured: dict[str, list[Measured]]) -> str:
    """The table of docs/samplers.md in Markdown."""
    lines = [
        f"| sampler | order | calls a step | noise | error at about {CALLS} calls | when |",
        "|---|---|---|---|---|---|",
    ]
    for name, points in measured.items():
        about = SAMPLER_TABLE[name]
        near = min(points, key=lambda each: abs(each.calls - CALLS))
        error = f"{near.error:.3f} ({near.calls})"
        lines.append(f"| `{name}` | {about.order} | {about.calls} | {about.noise} | {error} | {about.advice} |")
    return "\n".join(lines)


def plot(measured: dict[str, list[Measured]], path: Path) -> None:
    """Error over calls, a panel for each kind of noise, a line for each sampler."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 5), sharey=True)
    for (noise, title), axis in zip(PANELS.items(), axes, strict=True):
        names = [name for name in measured if SAMPLER_TABLE[name].noise == noise]
        for number, name in enumerate(names):
            points = measured[name]
            style = "-" if number < 10 else "--"
            axis.loglog([p.calls for p in points], [p.error for p in points], style, marker=".", label=name)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("network calls")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("relative error of the latent")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def sheet(model: LatentDiffusion, path: Path) -> None:
    """The same prompt and seed by every sampler (rows, in two columns) at growing numbers of steps."""
    from PIL import Image, ImageDraw

    size, label = 96, 110
    names = list(SAMPLERS)
    rows = -(-len(names) // 2)
    block = label + len(SHEET_STEPS) * size
    canvas = Image.new("RGB", (2 * block, rows * size + 16), "white")
    pen = ImageDraw.Draw(canvas)
    for number, name in enumerate(track(names, description="sheet")):
        column, row = divmod(number, rows)
        left, top = column * block, row * size + 16
        pen.text((left + 4, top + size // 2 - 6), name, fill="black")
        for place, steps in enumerate(SHEET_STEPS):
            latents = draw(model, PROMPTS[:1], name, steps)[0]
            pixels = (model.decode(latents)[0] * 255).round().byte().permute(1, 2, 0).numpy()
            picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)
            canvas.paste(picture, (left + label + place * size, top))
            if row == 0:
                pen.text((left + label + place * size + 4, 2), f"{steps} steps", fill="black")
    canvas.save(path)


def main() -> None:
    """Measure the shipped model and write docs/samplers.md's table and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji", help="a shipped name, a folder, or a hub id")
    parser.add_argument("--only", nargs="+", choices=list(SAMPLERS), help="print the rows of these samplers alone")
    arguments = parser.parse_args()
    model = LatentDiffusion.from_pretrained(arguments.model)
    if arguments.only:
        print(table(measure(model, PROMPTS, arguments.only, STEPS, REFERENCE_STEPS)))
        return
    measured = measure(model, PROMPTS, list(SAMPLERS), STEPS, REFERENCE_STEPS)
    page = DOCS / "samplers.md"
    before, _, rest = page.read_text().partition(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n{table(measured)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    plot(measured, DOCS / "pictures" / "samplers.png")
    sheet(model, DOCS / "pictures" / "samplers-sheet.png")


if __name__ == "__main__":
    main()
