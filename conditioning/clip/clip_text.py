"""CLIP text tower and tokenizer: prompts in, token states out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.clip.transformer import ClipTextModel
from conditioning.fingerprint import digest_weights
from conditioning.text_encoder import Widths


@dataclass(frozen=True)
class TokenReport:
    """How much of a prompt the text tower reads. Counts are without BOS and EOS."""

    prompt: str
    used: int
    total: int
    chunks: int = 1
    """Rows of the tower that the prompt fills."""

    @property
    def cut(self) -> bool:
        """Whether the end of the prompt is lost."""
        return self.used < self.total


class ClipText(nn.Module):
    """The text half of CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.4), used as in Stable Diffusion."""

    def __init__(self, tokenizer: ClipTokenizer, model: ClipTextModel, penultimate: bool = False) -> None:
        """Join both.

        Args:
            tokenizer: of the model.
            model: the tower, on any device and of any dtype.
            penultimate: the token states are those of the last layer but one, without a norm, as Stable Diffusion XL
                reads them (Podell et al. 2023, arXiv:2307.01952, sec. 2.1); else the last layer's, normed, as 1 and 2
                do.
        """
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model
        self.penultimate = penultimate

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt that are read, BOS and EOS not counted."""
        return self.length - 2

    @property
    def width(self) -> int:
        """D of the token states."""
        return self.model.config.hidden_size

    @property
    def pooled_width(self) -> int:
        """P of the pooled state."""
        projection = self.model.text_projection
        return self.width if projection is None else projection.out_features

    @property
    def widths(self) -> Widths:
        """Both together, see `TextEncoder`."""
        return Widths(self.width, self.pooled_width)

    @property
    def fingerprint(self) -> str:
        """See `TextEncoder`."""
        digest = hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode())
        digest.update(f"{self.max_tokens} {self.tokenizer.pad_token_id} {self.penultimate}".encode())
        digest_weights(digest, self.model)
        return digest.hexdigest()

    @property
    def towers(self) -> "tuple[ClipText, ...]":
        """Itself: what a pair has two of."""
        return (self,)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of the whole prompt, BOS and EOS not counted, whether they fit or not."""
        return len(self.ids(prompt))

    def ids(self, text: str) -> list[int]:
        """The text's tokens, all of them, without BOS and EOS."""
        return self.tokenizer.ids(text)

    def row(self, ids: Sequence[int]) -> list[int]:
        """The tower's input ids: BOS, at most `max_tokens` of the ids, EOS, and padding to the tower's length."""
        tokenizer = self.tokenizer
        kept = [tokenizer.bos_token_id, *ids[: self.max_tokens], tokenizer.eos_token_id]
        return kept + [tokenizer.pad_token_id] * (self.length - len(kept))

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, list[TokenReport]]:
        """Prompts -> ids (B, L), cut or padded to the length of the tower, and what each prompt lost by it."""
        rows, reports = [], []
        for prompt in prompts:
            ids = self.ids(prompt)
            rows.append(self.row(ids))
            reports.append(TokenReport(prompt, min(len(ids), self.max_tokens), len(ids)))
        return torch.tensor(rows, dtype=torch.long).reshape(-1, self.length), reports

    def encode(self, prompts: Sequence[str], clip_skip: int = 0) -> Conditioning:
        """Prompts, cut to the length of the tower, -> `Conditioning(tokens=(B, L, D), pooled=(B, D))`.

        The text is taken as it stands; `conditioning.prompt.encoder.PromptEncoder` reads weights and any length.
        See `encode_ids` for the states and for what is raised.
        """
        return self.encode_ids(self.tokenize(prompts)[0], clip_skip)

    def encode_ids(self, ids: Tensor, clip_skip: int = 0, embedded: Tensor | None = None) -> Conditioning:
        """Rows of ids (B, L) -> `Conditioning(tokens=(B, L, D), pooled=(B, P))`.

        The token states are those of the last layer (the last but one, see `penultimate`), or of the `clip_skip`-th
        before it, after the final layer norm unless `penultimate`. The pooled state is the normed last state at the
        first EOS, whatever clip_skip says (as in transformers), projected if the model has a projection.

        Args:
            ids: (B, L), with BOS, EOS and padding.
            clip_skip: layers left out before the last.
            embedded: (B, L, D) input embeddings in place of those that `embed` gives for the ids.

        Raises:
            ValueError: a clip_skip that leaves no layer.
        """
        layers = self.model.config.num_hidden_layers - self.penultimate
        if not 0 <= clip_skip < layers:
            raise ValueError(f"clip_skip={clip_skip} is out of range for {layers} layers; use 0 to {layers - 1}")
        output = self.model(ids.to(self.model.device), output_hidden_states=True, inputs_embeds=embedded)
        states = output.hidden_states[layers - clip_skip]
        return Conditioning(
            tokens=states if self.penultimate else self.model.final_layer_norm(states),
            pooled=output.pooler_output if output.text_embeds is None else output.text_embeds,
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (B, L, D) of ids (B, L), without the positions."""
        return self.model.embeddings.token_embedding(ids.to(self.model.device))

    @property
    def length(self) -> int:
        """L of the token states: tokens of a row, BOS, EOS and padding included."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
