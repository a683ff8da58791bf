"""`<lora:name:0.8>` in prompts, as AUTOMATIC1111's web UI reads it."""

import math
import re
from dataclasses import dataclass

from ldm.adapters.lora.layers import TEXT, TEXT_2, UNET

_TAG = re.compile(r"<(?:lora|lyco):([^>]{1,500})>")  # bounded: many tags without an end are read in linear time


@dataclass(frozen=True)
class LoraTag:
    """One tag: `weight` is for the U-Net, `text_weight` for the text encoders, None if the tag gives one for both."""

    name: str
    weight: float = 1.0
    text_weight: float | None = None

    @property
    def weights(self) -> float | dict[str, float]:
        """The weights in the form that `LoraSet.set_weights` takes."""
        if self.text_weight is None:
            return self.weight
        return {UNET: self.weight, TEXT: self.text_weight, TEXT_2: self.text_weight}


def lora_tags(prompt: str) -> tuple[str, list[LoraTag]]:
    """A prompt -> the prompt without its tags, otherwise unchanged, and the tags in their order.

    `<lora:name>` is weight 1, `<lora:name:0.8>` one weight, `<lora:name:0.5:0.8>` the text encoders' and the U-Net's,
    also written `<lora:name:te=0.5:unet=0.8>`. `lyco` means the same. Other words in angle brackets are left alone.

    Raises:
        ValueError: a tag without a name, with a weight that is no number, or with something else in it.
    """
    tags = [_read(match.group(0), match.group(1)) for match in _TAG.finditer(prompt)]
    return _TAG.sub("", prompt), tags


def _read(tag: str, content: str) -> LoraTag:
    name, *arguments = (argument.strip() for argument in content.split(":"))
    if not name:
        raise ValueError(f"{tag} names no LoRA; write <lora:NAME:1.0>")
    numbers = [argument for argument in arguments if "=" not in argument]
    if len(numbers) > 2:
        raise ValueError(f"{tag} has {len(numbers)} numbers; write one weight, or the text encoder's and the U-Net's")
    text = _number(tag, numbers[0]) if numbers else 1.0
    unet = _number(tag, numbers[1]) if len(numbers) == 2 else None
    for argument in arguments:
        key, equals, value = (part.strip() for part in argument.partition("="))
        if key == "te":
            text = _number(tag, value)
        elif key == "unet":
            unet = _number(tag, value)
        elif equals:
            raise ValueError(f"{tag} has {key}=, which is not supported; only te= and unet= are")
    return LoraTag(name, text) if unet is None or unet == text else LoraTag(name, unet, text)


def _number(tag: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{tag}: {text!r} is no weight; write a number such as 0.8")
    return number
