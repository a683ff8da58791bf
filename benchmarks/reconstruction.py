"""PSNR of reconstructions beside the autoencoder's ceiling: `python benchmarks/reconstruction.py DATA --n 6`."""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.degradation.degrade import Degrade
from ldm.evaluation.restoration.filters import bicubic
from ldm.evaluation.restoration.pictures import part_of, read_pictures
from ldm.evaluation.restoration.similarity import psnr

DAMAGES = {
    "blur 2, noise 5": ("blur=2,gaussian=5", "blur=2", 5.0),
    "x4": ("down=4", "area-down=4", 0.3),
    "hole 40": ("", "identity", 0.3),
    "gaussian 50": ("gaussian=50", "identity", 50.0),
}
"""Name -> the damage, its operator, and its noise as a deviation of 255; a file is clipped and rounded."""
_HOLE = 40


def hole(size: int, number: int) -> Tensor:
    """A square (1, size, size) near the middle, at a place that depends on the picture's number."""
    generator, mask = torch.Generator().manual_seed(number), torch.zeros(1, size, size)
    quarter = (size - _HOLE) // 4
    top, left = (quarter + int(torch.randint(2 * quarter + 1, (1,), generator=generator)) for _ in range(2))
    mask[:, top : top + _HOLE, left : left + _HOLE] = 1
    return mask


def measure(model: LatentDiffusion, picture: Tensor, number: int, name: str, arguments: argparse.Namespace) -> Tensor:
    """PSNR of the ceiling, the damaged picture, one sample and the mean of all; inside the hole where there is one."""
    size = picture.shape[-1]
    damage, operator, level = DAMAGES[name]
    spoilt = Degrade.parse(f"{damage},clip,round", 0)(picture, number)
    mask = hole(size, number) if name.startswith("hole") else None
    if mask is not None:
        spoilt = torch.where(mask > 0, 128 / 255, spoilt)
    made = model.reconstruct(
        "",
        spoilt,
        operator,
        mask,
        level,
        arguments.method,
        num_images_per_prompt=arguments.samples,
        num_inference_steps=arguments.steps,
        seed=1,
        output_type="pt",
    ).images
    with torch.inference_mode():
        ceiling = model.decode(model.encode(picture[None]), upscale=False)[0].cpu()

    inside = slice(None) if mask is None else mask[0] > 0

    def against(x: Tensor) -> float:
        return float(psnr(x[:, inside], picture[:, inside]))

    return torch.tensor(
        [against(ceiling), against(bicubic(spoilt, size, size)), against(made[0]), against(made.mean(0))]
    )


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """A line of a table for each damage, as soon as it is measured."""
    model = LatentDiffusion.from_pretrained(arguments.model)
    size = model.parts.defaults.width
    pictures, _ = read_pictures(arguments.data, part_of(arguments.data), arguments.n, 0, size=size)
    about = f"{len(pictures)} pictures of {size} px, {arguments.method}, {arguments.steps} steps"
    yield f"| {about} | autoencoder | damaged | sample | mean of {arguments.samples} |"
    yield "|---|---|---|---|---|"
    for name in arguments.damage or DAMAGES:
        found = [measure(model, picture, number, name, arguments) for number, picture in enumerate(pictures)]
        yield f"| {name} | " + " | ".join(f"{value:.2f}" for value in torch.stack(found).mean(0).tolist()) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--n", type=int, default=6)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--method", default="daps")
    parser.add_argument("--damage", action="append", choices=DAMAGES)
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
