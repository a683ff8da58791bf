"""Several pictures in one call are those of single calls, in order, with seeds that count up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from task_models import picture

from ldm import LatentDiffusion

FEW = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def test_each_is_what_a_call_of_its_own_gives(model) -> None:
    given, prompts = [picture(16, 24), picture(33, 21, 4)], ["apple", "dark sea"]
    together = model.img2img(prompts, given, negative_prompt=["sea", ""], num_images_per_prompt=2, seed=5, **FEW)
    assert together.seeds == [5, 6, 7, 8] and together.prompts == ["apple"] * 2 + ["dark sea"] * 2
    for number, (prompt, negative) in enumerate((("apple", "sea"), ("dark sea", ""))):
        own = {"negative_prompt": negative, "num_images_per_prompt": 2, "seed": 5 + 2 * number}
        alone = model.img2img(prompt, given[number], **own, **FEW)
        for one, other in zip(alone.images, together.images[2 * number :], strict=False):
            assert one.mode == other.mode and one.tobytes() == other.tobytes()


def test_a_variation_counts_its_own_seed(model) -> None:
    own = {"seed": 3, "variation_seed": 7, "variation_strength": 0.4, **FEW}
    together = model.img2img("apple", [picture(), picture()], **own)
    alone = model.img2img("apple", picture(), **{**own, "variation_seed": 8})
    assert together.seeds == [3, 3] and together.images[1].tobytes() == alone.images[0].tobytes()


def test_masks_are_one_for_all_or_one_each(model) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:16] = 255
    for masks in (mask, [mask, mask]):
        made = model.inpaint("apple", [picture(), picture()], masks, seed=1, output_type="pt", **FEW).images
        assert made.shape == (2, 3, 32, 32) and not torch.equal(made[0], made[1])
        assert torch.equal(made[0, :, 16:], made[1, :, 16:])


def test_generators_and_embeddings_have_one_each(model) -> None:
    def seeded() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (4, 9)]

    together = model.img2img("apple", [picture(), picture()], generator=seeded(), **FEW)
    alone = model.img2img("apple", picture(), generator=seeded()[1:], **FEW)
    assert together.seeds == [4, 9] and together.images[1].tobytes() == alone.images[0].tobytes()
    embeds = torch.randn(2, 80, 16)
    by_rows = model.img2img(None, [picture(), picture()], prompt_embeds=embeds, seed=1, output_type="latent", **FEW)
    by_row = model.img2img(None, picture(), prompt_embeds=embeds[1:], seed=2, output_type="latent", **FEW)
    assert torch.equal(by_rows.images[1:], by_row.images)


def test_what_does_not_match_is_named(model) -> None:
    with pytest.raises(ValueError, match="image is an empty list; give at least one picture"):
        model.img2img("apple", [])
    with pytest.raises(ValueError, match="prompt has 3 entries for 2 pictures; give one, or one each"):
        model.img2img(["a", "b", "c"], [picture(), picture()])
    with pytest.raises(ValueError, match="mask has 1 entries for 2 pictures"):
        model.inpaint("apple", [picture(), picture()], [picture()])
    with pytest.raises(ValueError, match="pictures of different sizes are no single array; use output_type='pil'"):
        model.img2img("apple", [picture(), picture(16, 24)], output_type="np", **FEW)
