"""Pictures a second of the shipped model by how many go through the networks together, 1 to 16: the same pictures."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from benchmarks.measuring import Comparison, Options, Side, compare
from ldm import LatentDiffusion

SIZES = (1, 2, 4, 8, 16)
PROMPTS = ("a red apple, 3d style", "a fox, noto style")


def run(options: Options) -> Iterator[Comparison]:
    """As many pictures as the largest batch has, in batches of each size."""
    sizes = SIZES[:2] if options.quick else SIZES
    steps, count = 2 if options.quick else 8, sizes[-1]
    for dtype in options.dtypes:
        model = LatentDiffusion.from_pretrained("emoji", dtype, options.device)
        settings = {"num_images_per_prompt": count // 2, "num_inference_steps": steps, "seed": 0, "fast": False}

        def pictures(size: int, model: LatentDiffusion = model, settings: dict = settings) -> Tensor:
            return model(PROMPTS, batch_size=size, output_type="pt", **settings).images

        sides = [
            Side(f"batches of {size}", lambda size=size: partial(pictures, size), ours=True, baseline=size == 1)
            for size in sizes
        ]
        yield compare(f"{count} pictures of emoji, {steps} guided steps", sides, options, dtype, pictures=count)
