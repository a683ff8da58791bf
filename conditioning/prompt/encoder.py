"""Encodes prompts of any length, with weights and textual inversions, into conditioning."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import ClipText, TokenReport
from conditioning.clip.pair import ClipTextEncoder, side_by_side
from conditioning.clip.textual_inversion import Embedding
from conditioning.prompt.chunks import Chunk, Token, pack_at_commas, pack_words
from conditioning.prompt.emphasis import blend_with_empty, scale_states
from conditioning.prompt.fragments import BREAK, Break
from conditioning.prompt.syntax import check_mode, parse
from conditioning.prompt.two_texts import text_of

_EMBEDDING = "embedding:"
_PLACEHOLDER = 0  # Any id but EOS, which marks the pooled state.


class PromptEncoder:
    """Reads prompts with a CLIP text tower as A1111 or ComfyUI does; threads may share it.

    Each text is parsed once, whoever wants its tokens or states, so an encoder should live no longer than a drawing.

    A prompt is packed into chunks of `text.max_tokens` tokens. Each chunk is read alone, with a BOS and EOS of its own,
    then weighed, and the states are joined along L. Of a pair, each tower reads and weighs the same chunks by itself,
    or those of its own text (`two_texts`); then their states are joined along D. What a prompt gives depends on no
    other prompt, except on how many chunks it is padded to. A prompt of one chunk without weights gives exactly what
    `ClipText.encode([prompt])` gives.

    Modes, see also `conditioning.prompt.syntax`:
        a1111: chunks end at commas and at BREAK; states are scaled; an embedding is called by its bare name.
        comfy: chunks end between words; states are moved from the empty prompt's; an embedding is `embedding:name`.
            (ComfyUI kept words together until 2025 and has torn them where a chunk is full since then.)
        plain: no weights, no embeddings; chunks end at commas.
    """

    def __init__(
        self,
        text: ClipTextEncoder,
        mode: str = "a1111",
        clip_skip: int = 0,
        embeddings: Mapping[str, Embedding] | None = None,
        restore_mean: bool = True,
        zeros_for_empty: bool = False,
    ) -> None:
        """Read prompts for a text encoder.

        Args:
            text: the text encoder.
            mode: one of `conditioning.prompt.syntax.MODES`.
            clip_skip: layers left out before the last; A1111's "Clip skip: 2" is 1 here, as in diffusers.
            embeddings: by the name that prompts use.
            restore_mean: of the a1111 mode, see `scale_states`.
            zeros_for_empty: an empty negative prompt is zeros, not the states of no words
                (`force_zeros_for_empty_prompt` of SDXL folders).

        Raises:
            ValueError: an unknown mode.
        """
        check_mode(mode)
        self.text, self.mode, self.clip_skip = text, mode, clip_skip
        self._embeddings: Mapping[str, Embedding] = {} if embeddings is None else embeddings
        self._restore_mean, self._zeros_for_empty = restore_mean, zeros_for_empty
        self._comma = text.tokenizer.get_vocab().get(",</w>")
        called = self._embeddings if mode == "a1111" else ()
        self._names = sorted(((text.ids(name), name) for name in called), key=lambda pair: -len(pair[0]))
        self._chunks = cache(self._pack)

    def with_text(self, text: ClipTextEncoder) -> "PromptEncoder":
        """The same encoder on a text tower with other weights and the same tokens; texts that are parsed stay so."""
        twin = copy.copy(self)
        twin.text = text
        return twin

    def report(self, prompt: str) -> TokenReport:
        """Tokens and chunks of the prompt; an embedding counts as its vectors. Raises what `encode` does."""
        chunks = max(self._chunks_by_tower(prompt), key=len)
        total = sum(map(len, chunks))
        return TokenReport(prompt, total, total, len(chunks))

    def encode(self, prompts: Sequence[str], chunks: int | None = None, negative: bool = False) -> Conditioning:
        """Prompts -> `Conditioning(tokens=(B, chunks * L, D), pooled=(B, P))`, L the length of the tower.

        The pooled state is that of the first chunk, without weights.

        Args:
            prompts: B texts.
            chunks: to pad to, with chunks of the empty prompt, as A1111 does; None is what the longest prompt fills.
            negative: they are negative prompts, see `zeros_for_empty`.

        Raises:
            ValueError: too few chunks, a clip_skip that leaves no layer, or an embedding that is unknown, has another
                width or fills more than a chunk.
            OSError: an embedding file that cannot be read.
        """
        read = {prompt: self._chunks_by_tower(prompt) for prompt in prompts}
        needed = max((len(each) for own in read.values() for each in own), default=1)
        if chunks is not None and chunks < needed:
            raise ValueError(f"chunks={chunks} is too few for a prompt that fills {needed}; use {needed} or more")
        empty = cache(lambda number: self._states((), number))
        encoded = {}
        for prompt, own in read.items():
            encoded[prompt] = side_by_side(
                [self._encode(each, chunks or needed, number, empty) for number, each in enumerate(own)]
            )
            if negative and self._zeros_for_empty and not prompt:
                encoded[prompt] = _zeros(encoded[prompt])
        return Conditioning.cat([encoded[prompt] for prompt in prompts])

    def _chunks_by_tower(self, prompt: str) -> list[list[Chunk]]:
        return [self._chunks(text_of(prompt, number)) for number in range(len(self.text.towers))]

    def _encode(
        self, chunks: list[Chunk], wanted: int, number: int, empty: Callable[[int], Conditioning]
    ) -> Conditioning:
        """The output of tower `number` for a prompt."""
        read = [self._states(chunk, number) if chunk else empty(number) for chunk in chunks]
        states = [
            self._weighed(_tokens(encoded), chunk, lambda: _tokens(empty(number)))
            for encoded, chunk in zip(read, chunks, strict=True)
        ]
        states += [_tokens(empty(number)) for _ in range(wanted - len(chunks))]
        return Conditioning(tokens=torch.cat(states, dim=1), pooled=read[0].pooled)

    def _states(self, chunk: Chunk, number: int) -> Conditioning:
        """One chunk through a tower, alone in its batch: what others are read with would change the last bits."""
        tower: ClipText = self.text.towers[number]
        ids = torch.tensor([tower.row([token.id for token in chunk])])
        embedded = None
        if any(token.vector is not None for token in chunk):
            widths = [each.width for each in self.text.towers]
            embedded = tower.embed(ids).clone()
            for position, token in enumerate(chunk, start=1):
                if token.vector is not None:
                    embedded[0, position] = token.vector.split(widths)[number].to(embedded)
        return tower.encode_ids(ids, self.clip_skip, embedded)

    def _weighed(self, states: Tensor, chunk: Chunk, empty: Callable[[], Tensor]) -> Tensor:
        """states: (1, L, D); BOS, EOS and padding weigh 1."""
        if all(token.weight == 1 for token in chunk):
            return states
        weights = torch.ones(states.shape[1])
        weights[1 : 1 + len(chunk)] = torch.tensor([token.weight for token in chunk])
        weights = weights.to(states.device)
        if self.mode in ("comfy", "compel"):
            return blend_with_empty(states[0], empty()[0], weights).unsqueeze(0)
        return scale_states(states[0], weights, self._restore_mean).unsqueeze(0)

    def _pack(self, prompt: str) -> list[Chunk]:
        room = self.text.max_tokens
        if self.mode == "comfy":
            return pack_words(list(self._words(prompt)), room)
        return pack_at_commas(self._units(prompt), room, self._comma)

    def _units(self, prompt: str) -> Iterator[Chunk | Literal[Break.BREAK]]:
        """Tokens and embeddings, each a unit of its own, as A1111 finds them: by the tokens of an embedding's name."""
        for piece in parse(prompt, self.mode):
            if piece is BREAK:
                yield BREAK
                continue
            ids, position = self.text.ids(piece.text), 0
            while position < len(ids):
                name, length = self._name_at(ids, position)
                yield (Token(ids[position], piece.weight),) if name is None else self._vectors(name, piece.weight)
                position += length

    def _name_at(self, ids: list[int], position: int) -> tuple[str | None, int]:
        for name_ids, name in self._names:
            if name_ids and ids[position : position + len(name_ids)] == name_ids:
                return name, len(name_ids)
        return None, 1

    def _words(self, prompt: str) -> Iterator[Chunk]:
        for piece in parse(prompt, "comfy"):
            if piece is BREAK:
                continue
            for word in re.split(r"[ \n]+", piece.text):
                if word.startswith(_EMBEDDING):
                    name, word = self._named(word.removeprefix(_EMBEDDING))
                    yield self._vectors(name, piece.weight)
                if word:
                    yield tuple(Token(token, piece.weight) for token in self.text.ids(word))

    def _named(self, name: str) -> tuple[str, str]:
        """An embedding's name and the commas behind it."""
        bare = name.rstrip(",")
        for known in (name, bare):
            if known in self._embeddings:
                return known, name[len(known) :]
        near = get_close_matches(bare, self._embeddings, n=2) or sorted(self._embeddings)[:8]
        raise ValueError(f"{_EMBEDDING}{bare} is unknown; there are: {', '.join(near) or 'no embeddings'}")

    def _vectors(self, name: str, weight: float) -> Chunk:
        vectors = self._embeddings[name].vectors
        if vectors.shape[1] != self.text.width:
            raise ValueError(f"embedding {name} has width {vectors.shape[1]}; the text tower has {self.text.width}")
        if len(vectors) > self.text.max_tokens:
            raise ValueError(f"embedding {name} has {len(vectors)} vectors; a chunk has {self.text.max_tokens} places")
        return tuple(Token(_PLACEHOLDER, weight, vector) for vector in vectors)


def _zeros(encoded: Conditioning) -> Conditioning:
    pooled = encoded.pooled
    return Conditioning(tokens=torch.zeros_like(_tokens(encoded)), pooled=None if pooled is None else pooled * 0)


def _tokens(encoded: Conditioning) -> Tensor:
    assert encoded.tokens is not None  # a text tower always gives them
    return encoded.tokens
