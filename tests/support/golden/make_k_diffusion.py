"""Walks of k-diffusion 0.1.1's samplers, step by step, written to `k_diffusion.json` beside this file.

k-diffusion asks for torchvision, wandb and more, none of which its samplers use, so it lives in an environment of its
own and its `sampling.py` is loaded past the package's `__init__`:

    python -m venv /tmp/kd && /tmp/kd/bin/pip install torch scipy torchsde torchdiffeq tqdm
    /tmp/kd/bin/pip install --no-deps k-diffusion==0.1.1
    /tmp/kd/bin/python tests/support/golden/make_k_diffusion.py

The tests read the numbers only. Noise comes from a recorded list: a run's `draws` are the entries of `noise` that
entered x, in order, and `between` the (sigma, sigma_next) that a noise sampler was asked about for each of them.
"""

import importlib
import importlib.metadata
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor

SHAPE = (1, 2, 2, 2)
STEPS = 6
DIGITS = 12
CHURN = {"s_churn": 1.5, "s_tmin": 0.2, "s_tmax": 5.0, "s_noise": 1.1}
RUNS: list[tuple[str, str, dict[str, float | str]]] = [  # (our name, k-diffusion's function, its options)
    ("euler", "sample_euler", {}),
    ("euler", "sample_euler", CHURN),
    ("heun", "sample_heun", {}),
    ("heun", "sample_heun", CHURN),
    ("dpm2", "sample_dpm_2", {}),
    ("dpm2", "sample_dpm_2", CHURN),
    ("lms", "sample_lms", {}),
    ("lms", "sample_lms", {"order": 3}),
    ("lms", "sample_lms", {"order": 2}),
    ("dpmpp_2m", "sample_dpmpp_2m", {}),
    ("euler_ancestral", "sample_euler_ancestral", {}),
    ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.6, "s_noise": 0.9}),
    ("dpm2_ancestral", "sample_dpm_2_ancestral", {}),
    ("dpm2_ancestral", "sample_dpm_2_ancestral", {"eta": 0.6, "s_noise": 0.9}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.6, "s_noise": 0.9}),
    ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpmpp_sde", "sample_dpmpp_sde", {}),
    ("dpmpp_sde", "sample_dpmpp_sde", {"eta": 0.6, "s_noise": 0.9, "r": 0.4}),
    ("dpmpp_sde", "sample_dpmpp_sde", {"eta": 0.0}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"solver_type": "midpoint"}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"solver_type": "heun"}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.6, "s_noise": 0.9, "solver_type": "midpoint"}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.0, "solver_type": "midpoint"}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.6, "s_noise": 0.9}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.0}),
]
FAST_STEPS = (5, 7, 8)
"""Calls of `sample_dpm_fast`: blocks of 3 and 2; of 3, 3 and 1; of 3, 3 and 2."""


def load_sampling() -> ModuleType:
    """k_diffusion/sampling.py without the package around it; of its `utils` the samplers use `append_dims` alone."""
    file = next(path for path in importlib.metadata.files("k-diffusion") or [] if path.name == "sampling.py")
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = [str(Path(file.locate()).parent)]
    package.utils = utils  # type: ignore[attr-defined]
    utils.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]  # type: ignore[attr-defined]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


def model(x: Tensor, sigma: Tensor) -> Tensor:
    """x0 as a smooth nonlinear function of x `(1, 2, 2, 2)` = x0 + sigma eps, with neighbours and channels mixed."""
    sigma = sigma[:, None, None, None]
    seen = x / (1 + sigma**2).sqrt()
    return torch.tanh(seen + seen.flip(-1) / 2 - seen.flip(1) / 4) + torch.cos((1 + sigma).log()) / 5


def walk(sample: Callable[..., Tensor], start: Tensor, sigmas: Tensor, noise: Tensor, options: dict) -> dict:
    """x after every step, and the noise that went in."""
    before: list[Tensor] = []
    load_options: list[tuple[float, float]] = []

    def next_noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        load_options.append((float(sigma), float(sigma_next)))
        return noise[len(load_options) - 1]

    def churn_noise(x: Tensor) -> Tensor:  # these samplers draw in every step, used or not, with the x of before
        before.append(x)
        return noise[len(before) - 1]

    own = inspect.signature(sample).parameters
    if "s_churn" in own:
        with mock.patch("torch.randn_like", churn_noise):
            end = sample(model, start, sigmas, disable=True, **options)
        low, high = options.get("s_tmin", 0.0), options.get("s_tmax", float("inf"))
        churned = options.get("s_churn", 0.0) > 0
        draws = [i for i, sigma in enumerate(sigmas[:-1].tolist()) if churned and low <= sigma <= high]
    else:
        given = options | ({"noise_sampler": next_noise} if "noise_sampler" in own else {})
        end = sample(model, start, sigmas, disable=True, callback=lambda now: before.append(now["x"]), **given)
        draws = list(range(len(load_options)))
    walked = [rounded(x) for x in [*before[1:], end]]
    return {
        "options": options,
        "draws": draws,
        "between": [rounded(torch.tensor(pair)) for pair in load_options],
        "x": walked,
    }


def walk_fast(sample: Callable[..., Tensor], start: Tensor, sigmas: Tensor, n: int) -> dict:
    """x at every level that `sample_dpm_fast` looks at, stages included, and those levels."""
    seen: list[tuple[float, Tensor]] = []

    def look(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((float(sigma), x))
        return model(x, sigma)

    low, high = float(sigmas[-2]), float(sigmas[0])
    end = sample(look, start, low, high, n, disable=True)
    levels = rounded(torch.tensor([sigma for sigma, _ in seen] + [low]))
    return {"options": {}, "draws": [], "sigmas": levels, "x": [rounded(x) for x in [*(x for _, x in seen[1:]), end]]}


def rounded(x: Tensor) -> list[float]:
    """The flattened numbers."""
    return [round(value, DIGITS) for value in x.flatten().tolist()]


def main() -> None:
    sampling = load_sampling()
    generator = torch.Generator().manual_seed(0)
    torch.set_default_dtype(torch.float64)
    noise = torch.randn(2 * STEPS, *SHAPE, generator=generator)
    sigmas = sampling.get_sigmas_karras(STEPS, 0.05, 10.0)
    start = 10 * torch.randn(SHAPE, generator=generator)
    noise, sigmas, start = (torch.tensor(rounded(x)).reshape(x.shape) for x in (noise, sigmas, start))
    runs = [
        {"sampler": ours, "function": theirs} | walk(getattr(sampling, theirs), start, sigmas, noise, options)
        for ours, theirs, options in RUNS
    ]
    fast = {"sampler": "dpm_fast", "function": "sample_dpm_fast"}
    runs += [fast | walk_fast(sampling.sample_dpm_fast, start, sigmas, n) for n in FAST_STEPS]
    versions = {name: importlib.metadata.version(name) for name in ("k-diffusion", "torch", "scipy")}
    content = {
        "source": "k_diffusion/sampling.py, float64, CPU; tests/support/golden/make_k_diffusion.py",
        "versions": versions,
        "shape": SHAPE,
        "sigmas": rounded(sigmas),
        "start": rounded(start),
        "noise": [rounded(draw) for draw in noise],
    }
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    tail = ",\n".join(json.dumps(run) for run in runs)
    text = "{" + ",\n".join(head) + ',\n"runs": [\n' + tail + "\n]}\n"
    Path(__file__).with_name("k_diffusion.json").write_text(text)


if __name__ == "__main__":
    main()
