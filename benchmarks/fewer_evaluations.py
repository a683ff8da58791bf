"""What fewer evaluations of the network save and cost: `python benchmarks/fewer_evaluations.py`, or `--only emoji|sd1`.

`emoji`: drawings of 25 guided steps with the shipped model's full weights; ways take turns, processor time is the
median of the rounds, and PSNR is that to the plain drawing, in the mean over the prompts. `sd1`: the distance of the
last latents from the plain walk's, relative to their norm, for a U-Net of Stable Diffusion 1's layers and random
weights, an eighth as wide. How much worse pictures get only a judge can say: the commands for it are printed.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.denoiser import NetworkDenoiser
from ldm.engine.placement import processor_name
from ldm.evaluation.restoration.similarity import psnr
from ldm.generation.options_of_methods import caching_for, guidance_for
from ldm.guidance import GuidanceSettings, guide
from ldm.networks.feature_cache import FeatureCache
from ldm.networks.token_merging import TokenMerging
from ldm.networks.unet import UNet, UNetConfig
from ldm.process import DiscreteVP
from ldm.samplers import dpmpp_2m
from ldm.schedules import make_grid

STEPS = 25
PROMPTS = (
    *("a red apple, 3d style", "a fox", "three bananas", "a rocket, noto style"),
    *("a crown", "a smiling face", "a tree", "a blue car"),
)


@dataclass(frozen=True)
class Way:
    """One way to draw with fewer evaluations: the options of a request."""

    guidance: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)
    token_merging: float = 0.0
    fast: bool = False

    @property
    def name(self) -> str:
        """As on the command line."""
        return " ".join(self.options) or "plain"

    @property
    def options(self) -> list[str]:
        """Of `ldm generate` and `ldm eval`."""
        pairs = [("--guidance", self.guidance), ("--cache", self.cache)]
        named = [f"{option} {name}={value}" for option, values in pairs for name, value in values.items()]
        merging = [f"--token-merging {self.token_merging}"] if self.token_merging else []
        return [*named, *merging, *(["--fast"] if self.fast else [])]


WAYS = (
    Way(),
    Way(guidance={"guidance_interval": "sdxl"}),
    Way(guidance={"guidance_reuse": 2}),
    Way(guidance={"guidance_reuse": 3}),
    Way(cache={"deepcache": 2}),
    Way(cache={"deepcache": 3}),
    Way(cache={"deepcache": 5}),
    Way(cache={"deepcache": 3, "deepcache_branch": 2}),
    Way(cache={"first_block": 0.1}),
    Way(cache={"first_block": 0.2}),
    Way(guidance={"guidance_reuse": 2}, cache={"deepcache": 2}),
    Way(token_merging=0.5),
    Way(fast=True),
)


def drawn_by(model: LatentDiffusion, way: Way, prompt: str, seed: int, steps: int = STEPS) -> Tensor:
    """The picture (3, H, W) in [0, 1]; `fast` takes the steps of its weights."""
    request: dict[str, Any] = {"fast": True} if way.fast else {"fast": False, "num_inference_steps": steps}
    images: Tensor = model(
        prompt,
        seed=seed,
        output_type="pt",
        guidance_options=way.guidance,
        cache_options=way.cache,
        token_merging=way.token_merging,
        **request,
    ).images
    return images[0]


def of_model(model: LatentDiffusion, ways: Sequence[Way], prompts: Sequence[str], steps: int = STEPS) -> list[str]:
    """Lines of Markdown: how many times as fast as the first way each is, and how near to its pictures."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    near: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:  # weights are packed, LoRAs merged
        drawn_by(model, way, prompts[0], 0, 2)
    for seed, prompt in enumerate(prompts):
        plain: Tensor | None = None
        for way in ways:
            started = process_time()
            picture = drawn_by(model, way, prompt, seed, steps)
            seconds[way.name].append(process_time() - started)
            plain = picture if plain is None else plain
            near[way.name].append(psnr(picture[None], plain[None]))
    usual = statistics.median(seconds[ways[0].name])
    lines = ["| | times as fast | dB |", "|---|---|---|"]
    return lines + [
        f"| {w.name} | {usual / statistics.median(seconds[w.name]):.2f} | {statistics.mean(near[w.name]):.1f} |"
        for w in ways
    ]


def walked(unet: UNet, way: Way, cells: int, steps: int) -> tuple[Tensor, int]:
    """The last latents of a walk from random noise, and how often the deep part of the network ran."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, unet.config.in_channels, cells, cells, generator=draw)
    tokens = torch.randn(2, 1, 77, unet.config.context_dim or 1, generator=draw)
    prompt, negative = (Conditioning(each) for each in tokens)
    cache = FeatureCache(caching_for(way.cache))
    process = DiscreteVP()
    merging = TokenMerging(way.token_merging) if way.token_merging else None
    denoise = NetworkDenoiser(unet, process, "v_prediction", prompt, cache=cache, merging=merging)
    guided = guide(denoise, negative, guidance_for(GuidanceSettings(), 7.5, None, way.guidance))
    *_, last = dpmpp_2m(guided, x, make_grid("trailing", process, steps), lambda: torch.randn(x.shape, generator=draw))
    return last.x, cache.deep_runs


def of_network(unet: UNet, ways: Sequence[Way], cells: int = 32, steps: int = STEPS) -> list[str]:
    """Lines of Markdown: how often the deep part ran, and the distance from the first way's latents."""
    lines, plain = ["| | runs of the deep part | distance |", "|---|---|---|"], walked(unet, ways[0], cells, steps)[0]
    for way in ways:
        latents, runs = walked(unet, way, cells, steps)
        lines.append(f"| {way.name} | {runs} | {((latents - plain).norm() / plain.norm()).item():.4f} |")
    return lines


@torch.inference_mode()
def main() -> None:
    """Print the tables and the commands of the judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("emoji", "sd1"))
    options = parser.parse_args()
    print(f"{processor_name()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    if options.only != "sd1":
        model = LatentDiffusion.from_pretrained("emoji", device="cpu")
        print("\n".join(of_model(model, WAYS, PROMPTS)), "\n", flush=True)
    if options.only != "emoji":
        torch.manual_seed(0)
        widths = (40, 80, 160, 160)
        unet = UNet(UNetConfig(widths=widths, num_heads=(2, 2, 2, 2), context_dim=96, norm_groups=8))
        print("\n".join(of_network(unet.requires_grad_(False).eval(), [w for w in WAYS if not w.fast])), "\n")
    for way in (each for each in WAYS if not each.token_merging):  # which is for larger maps than emoji's
        # Without --steps, ldm eval draws with the weights for few steps by itself.
        print(" ".join(["ldm eval emoji -n 200", *([] if way.fast else [f"--steps {STEPS}", *way.options])]))


if __name__ == "__main__":
    main()
