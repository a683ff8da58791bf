"""Fits the preview matrix of a model's own autoencoder: `python benchmarks/fit_preview.py ldm/models/emoji`.

Draws `--pictures` pictures of captions of the words that the model knows, in `--steps` steps, and fits the colours of
what their latents are decoded to by least squares, as `autoencoder.latent_format.fit_preview`. Writes the matrix into
the model's `ldm.json`, and prints which part of the colours' variance it explains on pictures that were not fitted.
`ldm/models/SHA256SUMS` has to be made anew for a shipped model.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from autoencoder.latent_format import fit_preview
from ldm import LatentDiffusion


def main() -> None:
    """Fit, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    model = LatentDiffusion.from_pretrained(given.model)
    words, rows = sorted(model.parts.words or {"picture"}), random.Random(0)
    prompts = [" ".join(rows.choices(words, k=3)) for _ in range(given.pictures)]
    latents, pictures = [], []
    for seed, prompt in enumerate(prompts):
        drawn = model(prompt, seed=seed, num_inference_steps=given.steps, output_type="latent")
        with torch.inference_mode():
            latents.append(drawn.images)
            pictures.append(model.decode(drawn.images, upscale=False).cpu() * 2 - 1)
    z, x, fitted = torch.cat(latents), torch.cat(pictures), given.pictures * 3 // 4
    matrix = tuple(tuple(round(each, 4) for each in row) for row in fit_preview(z[:fitted], x[:fitted]))
    seen = replace(model.parts.latent_format, preview=matrix).to_rgb(z[fitted:])
    true = F.adaptive_avg_pool2d(x[fitted:], z.shape[-2:]) / 2 + 0.5
    rest = (seen - true).square().mean() / (true - true.mean((0, 2, 3), keepdim=True)).square().mean()
    file = given.model / "ldm.json"
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | {"preview": matrix}, indent=2) + "\n")
    print(f"{file}: explains {1 - rest:.1%} of the variance of colours")


if __name__ == "__main__":
    main()
