"""How fast each engine runs networks: `python benchmarks/engines.py --only emoji`, or `sd1`.

All sides of a comparison run in one process and take turns, so that a busy machine slows all of them; medians are of
processor time, which other processes do not add to. Outputs are compared with the eager engine's before a time counts.
`emoji`: a step with guidance and a whole drawing of the shipped model, and the step of diffusers' U-Net of the same
folder. `sd1`: a step of a U-Net of Stable Diffusion 1.5's size with random weights, in fp32 and, with --bf16, in bf16.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import process_time

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.engine.choose import engine_for
from ldm.engine.placement import processor_name
from ldm.io.locate import find_model
from ldm.networks.unet import UNet, UNetConfig

CPU = torch.device("cpu")
FAR_OFF = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""The largest difference from the eager engine that counts as rounding, in units of the output's spread."""
LONGEST_PROMPT = 77


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, and the median of its seconds."""

    name: str
    seconds: float


def compare(sides: Mapping[str, Callable[[], Tensor]], repetitions: int, far_off: float) -> list[Side]:
    """Time sides in turn, the first of which is what the others are compared with.

    Args:
        sides: functions by name, which give the same but for rounding.
        repetitions: of each, after one that is not counted.
        far_off: the largest difference, in units of the first output's standard deviation.

    Raises:
        ValueError: a side gives something else; names it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    expected: Tensor | None = None
    for name, run in sides.items():
        out = run().float()
        expected = out if expected is None else expected
        if (out - expected).abs().max() > far_off * expected.std():
            raise ValueError(f"{name} differs from {next(iter(sides))} by {(out - expected).abs().max():.2g}")
    for _ in range(repetitions):
        for name, run in sides.items():
            started = process_time()
            run()
            seconds[name].append(process_time() - started)
    return [Side(name, statistics.median(each)) for name, each in seconds.items()]


def table(title: str, sides: list[Side]) -> str:
    """Lines of Markdown: milliseconds of each side, and how many times as fast as the first it is."""
    lines = [f"| {title} | ms | times as fast |", "|---|---|---|"]
    return "\n".join(
        lines + [f"| {s.name} | {1e3 * s.seconds:.1f} | {sides[0].seconds / s.seconds:.2f} |" for s in sides]
    )


def step_inputs(config: UNetConfig, cells: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Conditioning]:
    """Random inputs of one step with guidance: two rows, prompts of full length."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, config.in_channels, cells, cells, generator=draw)
    tokens = torch.randn(2, LONGEST_PROMPT, config.context_dim or 1, generator=draw)
    return x.to(dtype), torch.full((2,), 500.0), Conditioning(tokens.to(dtype))


def of_network(unet: UNet, engines: list[str], cells: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """A step of a network by each engine."""
    inputs = step_inputs(unet.config, cells, dtype)
    runs = {name: engine_for(name, CPU).network(unet) for name in engines}
    return {name: lambda run=run: run(*inputs) for name, run in runs.items()}


def emoji_step(engines: list[str], repetitions: int) -> list[Side]:
    """A step of the shipped model, and of diffusers' U-Net with the same weights."""
    from diffusers import UNet2DConditionModel

    unet = LatentDiffusion.from_pretrained("emoji", device="cpu").parts.unet
    theirs = UNet2DConditionModel.from_pretrained(find_model("emoji") / "unet").eval()
    x, time, conditioning = step_inputs(unet.config, 16, torch.float32)
    sides = of_network(unet, engines, 16, torch.float32)
    sides["diffusers, eager"] = lambda: theirs(x, time, conditioning.tokens).sample
    return compare(sides, repetitions, FAR_OFF[torch.float32])


def emoji_drawing(engines: list[str], repetitions: int) -> list[Side]:
    """A warm drawing of 25 guided steps, to pixels."""
    models = {name: LatentDiffusion.from_pretrained("emoji", device="cpu", engine=name) for name in engines}
    request = {"seed": 0, "num_inference_steps": 25, "fast": False, "output_type": "pt"}
    sides = {
        name: lambda model=model: model("a red apple, 3d style", **request).images for name, model in models.items()
    }
    return compare(sides, repetitions, 0.02)


def sd1_step(engines: list[str], repetitions: int, dtype: torch.dtype) -> list[Side]:
    """A step of 512 x 512 pixels with guidance."""
    torch.manual_seed(0)
    unet = UNet(UNetConfig()).requires_grad_(False).eval().to(dtype)
    return compare(of_network(unet, engines, 64, dtype), repetitions, FAR_OFF[dtype])


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("emoji", "sd1"))
    parser.add_argument("--engines", nargs="+", default=["eager", "packed"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="sd1 in bf16 too")
    options = parser.parse_args()
    print(f"{processor_name()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    if options.only != "sd1":
        print(table("a step of emoji", emoji_step(options.engines, 10 * options.repetitions)), "\n", sep="")
        print(table("25 steps of emoji", emoji_drawing(options.engines, options.repetitions)), "\n", sep="")
    if options.only != "emoji":
        for dtype in (torch.float32, *([torch.bfloat16] if options.bf16 else [])):
            name = str(dtype).removeprefix("torch.")
            sides = sd1_step(options.engines, options.repetitions, dtype)
            print(table(f"a step of SD 1.5's size, {name}", sides), "\n", sep="", flush=True)


if __name__ == "__main__":
    main()
