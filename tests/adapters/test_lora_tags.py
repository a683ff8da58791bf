"""`<lora:...>` in prompts: what AUTOMATIC1111's web UI makes of them."""

import pytest

from ldm.adapters.lora.tags import LoraTag, lora_tags


@pytest.mark.parametrize(
    ("prompt", "text", "tags"),
    [
        ("a cat", "a cat", []),
        ("a cat <lora:ink:0.8>", "a cat ", [LoraTag("ink", 0.8)]),
        ("<lora:ink>a cat", "a cat", [LoraTag("ink", 1.0)]),
        ("a <lora:ink:0.5:0.9>cat", "a cat", [LoraTag("ink", 0.9, 0.5)]),
        ("<lora:ink:0.5:0.5>", "", [LoraTag("ink", 0.5)]),
        ("<lora:ink:te=0.5:unet=0.9>", "", [LoraTag("ink", 0.9, 0.5)]),
        ("<lora:ink:te=0.5>", "", [LoraTag("ink", 0.5)]),
        ("<lora:ink:unet=0>", "", [LoraTag("ink", 0.0, 1.0)]),
        ("<lora:ink:0.3:unet=-1>", "", [LoraTag("ink", -1.0, 0.3)]),
        ("<lyco:My Style v1.5:-.25>, sea", ", sea", [LoraTag("My Style v1.5", -0.25)]),
        ("a <lora:x:1><lora:y:2> b <lora:x:3>", "a  b ", [LoraTag("x", 1), LoraTag("y", 2), LoraTag("x", 3)]),
        ("a <hypernet:h:1> b <LORA:x:1> (c:1.2) a<b", "a <hypernet:h:1> b <LORA:x:1> (c:1.2) a<b", []),
        ("<lora:> and <lora:x", "<lora:> and <lora:x", []),
    ],
)
def test_goldens(prompt: str, text: str, tags: list[LoraTag]) -> None:
    assert lora_tags(prompt) == (text, tags)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<lora::0.8>", "<lora::0.8> names no LoRA"),
        ("<lora:x:strong>", "<lora:x:strong>: 'strong' is no weight; write a number such as 0.8"),
        ("<lora:x:nan>", "'nan' is no weight"),
        ("<lora:x:inf>", "'inf' is no weight"),
        ("<lora:x:>", "'' is no weight"),
        ("<lora:x:1:2:3>", "has 3 numbers"),
        ("<lora:x:1:lbw=MIDD>", "has lbw=, which is not supported; only te= and unet= are"),
    ],
)
def test_tags_that_mean_nothing_are_named(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_tags(prompt)


def test_weights_of_a_tag_are_those_of_a_set() -> None:
    assert LoraTag("x", 0.8).weights == 0.8
    assert LoraTag("x", 0.8, 0.5).weights == {"unet": 0.8, "text_encoder": 0.5, "text_encoder_2": 0.5}
