"""Prompts that change in time, hold for regions, or differ between the pictures of a batch."""

import pytest
import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import TokenReport
from conditioning.prompt import encoder
from conditioning.prompt.syntax import parse
from ldm import LatentDiffusion
from ldm.generation.prompt_timeline import PromptTimeline, Segment, parse_timeline
from ldm.generation.regional_prompt import RegionalPrompt, box_mask


class Words:
    """Reads a text as its length; a chunk is three words."""

    mode = "a1111"

    def report(self, prompt: str) -> TokenReport:
        words = len(prompt.split())
        return TokenReport(prompt, words, words, max(1, -(-words // 3)))

    def encode(self, prompts, chunks=None) -> Conditioning:
        return Conditioning(tokens=torch.tensor([[[float(len(prompt))]] for prompt in prompts]))


@pytest.fixture(scope="module")
def model(tiny_folder) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def draw(model: LatentDiffusion, prompt, **options) -> Tensor:
    options = {"num_inference_steps": 4, "seed": 3, "output_type": "latent", "guidance_scale": 3.0} | options
    return model(prompt, **options).images


def test_a_plain_prompt_is_one_stretch():
    timeline = parse_timeline("a fox", "sea", 7, Words())
    assert timeline == PromptTimeline((Segment(7, "a fox", (), "sea"),), 1, (), TokenReport("a fox", 2, 2))


def test_prompt_and_negative_change_each_at_their_own_step():
    timeline = parse_timeline("[cat:dog:2] x", "[sea:0.5]", 8, Words())
    found = [(segment.last_step, segment.whole, segment.negative) for segment in timeline.segments]
    assert found == [(2, "cat x", ""), (4, "dog x", ""), (8, "dog x", "sea")]


def test_chunks_are_those_of_the_longest_text_of_the_whole_way():
    assert parse_timeline("a", "one two three four", 4, Words()).chunks == 2
    assert parse_timeline("a [b:c d e f g h i:2]", "", 4, Words()).chunks == 3


def test_an_edit_is_the_first_text_and_then_the_second(model: LatentDiffusion):
    latents = []
    edited = draw(model, "[apple:sea:2]", callback=lambda step: latents.append(step.x.clone()))
    first, second = [], []
    draw(model, "apple", callback=lambda step: first.append(step.x.clone()))
    assert torch.equal(latents[1], first[1]) and not torch.equal(latents[2], first[2])
    start = draw(model, "apple")
    assert not torch.allclose(edited, start)
    draw(model, "[apple:sea:0]", callback=lambda step: second.append(step.x.clone()))
    assert torch.equal(second[-1], draw(model, "sea"))


def test_alternation_takes_turns(model: LatentDiffusion):
    assert torch.equal(draw(model, "[apple|sea]", num_inference_steps=1), draw(model, "apple", num_inference_steps=1))
    assert not torch.allclose(draw(model, "[apple|sea]"), draw(model, "apple"))


def test_weights_change_the_picture_and_weight_one_does_not(model: LatentDiffusion):
    plain = draw(model, "red apple")
    assert torch.equal(draw(model, "red (apple:1.0)"), plain)
    assert not torch.allclose(draw(model, "red (apple:1.6)"), plain, atol=1e-4)
    assert torch.equal(
        draw(model, "red (apple:1.6)", prompt_syntax="plain"), draw(model, "red (apple:1.6)", prompt_syntax="plain")
    )


def test_the_last_word_of_a_long_prompt_counts(model: LatentDiffusion):
    long = "red apple " * 60
    assert not torch.allclose(draw(model, long + "sea"), draw(model, long + "dark"), atol=1e-5)


def test_and_of_one_prompt_at_weight_one_is_that_prompt(model: LatentDiffusion):
    plain, twice = draw(model, "apple"), draw(model, "apple :0.5 AND apple :0.5")
    torch.testing.assert_close(twice, plain, atol=1e-4, rtol=0)
    assert not torch.allclose(draw(model, "apple AND sea"), plain, atol=1e-3)


def test_and_adds_up_as_written_out(model: LatentDiffusion):
    # u + s sum w (c - u) with equal prompts is guidance at s * (sum of w).
    strong = draw(model, "apple :1.0 AND apple :0.5", guidance_scale=2.0)
    torch.testing.assert_close(strong, draw(model, "apple", guidance_scale=3.0), atol=1e-4, rtol=0)


def test_columns_have_different_prompts(model: LatentDiffusion):
    both = draw(model, "apple ADDCOL sea", num_inference_steps=1)
    left, right = (draw(model, word, num_inference_steps=1) for word in ("apple", "sea"))
    width = both.shape[-1] // 2
    torch.testing.assert_close(both[..., :width], left[..., :width], atol=1e-5, rtol=0)
    torch.testing.assert_close(both[..., width:], right[..., width:], atol=1e-5, rtol=0)


def test_a_region_of_everything_is_its_prompt(model: LatentDiffusion):
    everywhere = RegionalPrompt("sea", torch.ones(4, 4))
    torch.testing.assert_close(draw(model, "apple", regions=[everywhere]), draw(model, "sea"), atol=1e-5, rtol=0)


def test_box_masks_cover_the_picture_once():
    boxes = [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)]
    assert torch.equal(sum(box_mask(box) for box in boxes), torch.ones(512, 512))


def test_pictures_of_different_forms_equal_the_single_ones(model: LatentDiffusion):
    prompts = ["apple", "[apple:sea:2]", "red apple " * 12, "apple AND sea", "apple ADDCOL sea", "dark sea", "{a|b} x"]
    together = draw(model, prompts, seed=5, sampler="euler_ancestral")
    for number, prompt in enumerate(prompts):
        alone = draw(model, prompt, seed=5 + number, sampler="euler_ancestral")[0]
        torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=0)


def test_choices_are_drawn_by_the_picture_s_seed(model: LatentDiffusion):
    result = model("{red|dark} {apple|sea}", num_images_per_prompt=12, num_inference_steps=1, seed=0)
    assert len(set(result.prompts)) > 2
    alone = model("{red|dark} {apple|sea}", num_inference_steps=1, seed=7)
    assert alone.prompts[0] == result.prompts[7]
    assert alone.recipes[0].prompt == alone.prompts[0]


def test_autoguidance_by_the_model_itself_changes_nothing(model: LatentDiffusion):
    options = {"guidance_options": {"autoguidance_scale": 2.0}, "weak_model": model}
    torch.testing.assert_close(draw(model, "apple", **options), draw(model, "apple"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("red apple<lora:ink:0.5>", "red apple"),
        ("red [apple:dark sea:0.5]", "red dark sea"),
        ("[red|dark] apple", "dark apple"),
        ("{red} apple", "{red} apple"),
        ("{red apple|red apple}", "red apple"),
        ("sea AND red apple :0.5", "red apple"),
    ],
)
def test_tokens_are_those_of_the_longest_text_that_is_read(model: LatentDiffusion, prompt: str, read: str):
    counted, expected = model.token_report(prompt), model.token_report(read, "plain")
    assert (counted.total, counted.used, counted.chunks) == (expected.total, expected.used, expected.chunks)
    assert model(prompt.replace("<lora:ink:0.5>", ""), num_inference_steps=2, seed=0).tokens == [counted]


def test_each_text_is_parsed_once_a_drawing(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch):
    parsed = []
    monkeypatch.setattr(encoder, "parse", lambda text, mode: parsed.append(text) or parse(text, mode))
    prompts = ["red apple", "[red apple:sea:2]", "red apple"]
    model(prompts, negative_prompt="dark", num_inference_steps=3, batch_size=1)
    assert sorted(parsed) == ["dark", "red apple", "sea"]
