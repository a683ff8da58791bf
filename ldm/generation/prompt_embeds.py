"""Prompts that come as embeddings, not as texts: diffusers' `prompt_embeds` and its kin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import TokenReport
from ldm.families.parts import ModelParts
from ldm.generation.reader import Reader


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """Token states and pooled states of prompts; texts may stand for one of the two sides.

    Attributes:
        prompt: (B, L, D), diffusers' `prompt_embeds`.
        negative: (B, L, D) or (1, L, D), `negative_prompt_embeds`.
        pooled: (B, P), `pooled_prompt_embeds`, for models that take pooled text.
        negative_pooled: (B, P) or (1, P), likewise.

    Raises:
        ValueError: names the field whose shape does not fit the others.
    """

    prompt: Tensor | None = None
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.prompt is None and self.negative is None:
            raise ValueError("pooled_prompt_embeds came alone; give prompt_embeds too")
        for name, states, pooled in self._sides():
            if states is not None and states.ndim != 3:
                raise ValueError(f"{name} is {tuple(states.shape)}; it must be (B, L, D)")
            if pooled is not None and (states is None or pooled.shape[:1] != states.shape[:1] or pooled.ndim != 2):
                shape = None if states is None else tuple(states.shape)
                raise ValueError(
                    f"pooled states {tuple(pooled.shape)} do not fit {name} {shape}; give (B, P) for (B, L, D)"
                )
        if self.prompt is None or self.negative is None:
            return
        if self.negative.shape[1:] != self.prompt.shape[1:] or len(self.negative) not in (1, len(self.prompt)):
            shapes = f"{tuple(self.negative.shape)}, prompt_embeds {tuple(self.prompt.shape)}"
            raise ValueError(f"negative_prompt_embeds are {shapes}; both need the same L and D")

    def _sides(self) -> list[tuple[str, Tensor | None, Tensor | None]]:
        return [
            ("prompt_embeds", self.prompt, self.pooled),
            ("negative_prompt_embeds", self.negative, self.negative_pooled),
        ]

    def prompts(self, texts: str | Sequence[str] | None) -> str | Sequence[str] | None:
        """The names that stand for the prompts in a request; `texts` where these are texts.

        Raises:
            ValueError: both were given.
        """
        if self.prompt is not None and texts is not None:
            raise ValueError("prompt and prompt_embeds were given; use one of them")
        return texts if self.prompt is None else _names("prompt_embeds", len(self.prompt))

    def negatives(self, texts: str | Sequence[str]) -> str | Sequence[str]:
        """Likewise for the negative prompts."""
        if self.negative is not None and texts:
            raise ValueError("negative_prompt and negative_prompt_embeds were given; use one of them")
        if self.negative is None:
            return texts
        names = _names("negative_prompt_embeds", len(self.negative))
        return names[0] if len(names) == 1 else names

    def reader(self, texts: Reader, parts: ModelParts, device: torch.device) -> Reader:
        """What reads these names, and all other texts as `texts` does.

        Raises:
            ValueError: states of another width than the model's, or pooled states that are missing.
        """
        config = parts.unet.config
        if parts.text is None:
            raise ValueError("this model has no text encoder, so it takes no prompt_embeds")
        rows: dict[str, Conditioning] = {}
        for name, states, pooled in self._sides():
            if states is None:
                continue
            if states.shape[2] != config.context_dim:
                raise ValueError(f"{name} has width {states.shape[2]}; this model needs {config.context_dim}")
            if config.pooled_dim is not None and (pooled is None or pooled.shape[1] != config.pooled_dim):
                field = name.replace("prompt", "pooled_prompt")
                raise ValueError(f"{field} (B, {config.pooled_dim}) must be given with {name} for this model")
            both = Conditioning(tokens=states, pooled=pooled if config.pooled_dim is not None else None)
            both = both.to(device, next(parts.unet.parameters()).dtype)
            rows |= {row: both[i : i + 1] for i, row in enumerate(_names(name, len(states)))}
        return _EmbedsReader(rows, texts, parts.text.length)


def _names(field: str, count: int) -> tuple[str, ...]:
    """Texts that every prompt syntax leaves as they are."""
    return tuple(f"{field} {i}" for i in range(count))


class _EmbedsReader:
    """A `Reader` that knows some names as embeddings."""

    def __init__(self, rows: Mapping[str, Conditioning], texts: Reader, length: int) -> None:
        self._rows, self._texts, self._length = rows, texts, length

    @property
    def mode(self) -> str:
        return self._texts.mode

    def report(self, prompt: str) -> TokenReport:
        if prompt not in self._rows:
            return self._texts.report(prompt)
        count = _states(self._rows[prompt]).shape[1]
        return TokenReport(prompt, count, count, -(-count // self._length))

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        return Conditioning.cat([self._encode(prompt, chunks, negative) for prompt in prompts])

    def _encode(self, prompt: str, chunks: int | None, negative: bool) -> Conditioning:
        if prompt in self._rows:
            return self._rows[prompt]
        read = self._texts.encode([prompt], chunks, negative)
        given = {_states(row).shape[1] for row in self._rows.values()}
        if given != {_states(read).shape[1]}:
            raise ValueError(
                f"embeddings of L={max(given)} and a text of {_states(read).shape[1]} cannot be guided together; "
                "give both prompt_embeds and negative_prompt_embeds, as model.encode_prompt makes them"
            )
        if all(row.pooled is None for row in self._rows.values()):  # the network takes none
            read = replace(read, pooled=None)
        return read


def _states(conditioning: Conditioning) -> Tensor:
    assert conditioning.tokens is not None
    return conditioning.tokens
