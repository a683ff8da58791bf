"""What reads the texts of a request for a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import TokenReport
from conditioning.labels import Labels
from conditioning.prompt.encoder import PromptEncoder
from ldm.engine.engine import Engine
from ldm.families.parts import ModelParts

if TYPE_CHECKING:
    from conditioning.clip.textual_inversion import Embedding


class Reader(Protocol):
    """Turns texts into conditionings: `conditioning.prompt.encoder.PromptEncoder`, or `ClassReader`."""

    @property
    def mode(self) -> str:
        """The syntax of its texts: `a1111 | comfy | plain`."""

    def report(self, prompt: str) -> TokenReport:
        """Tokens of the text, and the chunks that it fills, at least 1."""

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Texts -> conditionings, padded to the same number of chunks.

        Args:
            prompts: B texts.
            chunks: to pad to; None is what the longest prompt fills.
            negative: they are negative prompts.
        """


class ClassReader:
    """Reads class numbers for a model without a text encoder; "" is no class. None means a model without classes."""

    mode = "plain"

    def __init__(self, num_classes: int | None) -> None:
        self._labels = None if num_classes is None else Labels(tuple(str(i) for i in range(num_classes - 1)))

    def report(self, prompt: str) -> TokenReport:
        """No tokens: a class has no length."""
        return TokenReport(prompt, 0, 0)

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Class numbers as texts -> `Conditioning(labels=(B,))`; without classes, an empty one.

        Raises:
            ValueError: a text that is no class number.
        """
        labels = self._labels
        if labels is None:
            return Conditioning()
        return Conditioning.cat([labels.encode([name]) if name else labels.null() for name in prompts])


def reader_of(
    parts: ModelParts,
    engine: Engine,
    embeddings: "Mapping[str, Embedding]",
    prompt_syntax: str = "a1111",
    clip_skip: int = 0,
) -> Reader:
    """What reads a model's texts, or its class numbers where it has no text encoder.

    Args:
        parts: of the model.
        engine: runs the text encoder.
        embeddings: textual inversions by the words that call them.
        prompt_syntax: see `conditioning.prompt.syntax.MODES`.
        clip_skip: layers left out beyond the model's own habit.
    """
    if parts.text is None:
        return ClassReader(parts.unet.config.num_classes)
    text = engine.view(parts.text)
    return PromptEncoder(text, prompt_syntax, clip_skip, embeddings, zeros_for_empty=parts.zeros_for_empty)
