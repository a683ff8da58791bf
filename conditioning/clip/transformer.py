"""The text tower of CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.4), as OpenAI and OpenCLIP trained it.

Weights have the names of transformers' CLIPTextModel since 5.6, `text_projection` beside them, and `ClipTextConfig` is
the content of its `config.json`; the numbers are the same. Importing transformers alone takes longer than a picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


_tanh_gelu = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}
"""By transformers' names. OpenAI's towers have `quick_gelu`, OpenCLIP's `gelu`; no published one has another."""
_OLD_END = 2
"""The `eos_token_id` of configs written before transformers 4.30, which is no id of EOS."""


@dataclass(frozen=True)
class ClipTextConfig:
    """`config.json` of a CLIP text tower; names and defaults are transformers'.

    Raises:
        ValueError: an activation that is unknown, or a width that the heads do not divide.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r} is not supported; only {', '.join(ACTIVATIONS)} are")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> Self:
        """From the fields of a `config.json`; those that it does not know change nothing in eval mode."""
        return cls(**{each.name: content[each.name] for each in fields(cls) if each.name in content})

    def to_fields(self, projected: bool) -> dict[str, Any]:
        """The whole `config.json`, for transformers' class with or without a projection."""
        return {
            "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
            "model_type": "clip_text_model",
            "dtype": "float32",  # transformers would open it as the file is, diffusers opens the U-Net in fp32
            **asdict(self),
        }


class ClipTextOutput(NamedTuple):
    """What a tower says of B texts of L tokens.

    Attributes:
        last_hidden_state: (B, L, D) after the last layer and the final norm.
        pooler_output: (B, D), that state at the first EOS.
        text_embeds: (B, P), `pooler_output` projected; None for a tower without projection.
        hidden_states: (B, L, D) before the first layer and after each, without the final norm; None if not wanted.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    text_embeds: Tensor | None
    hidden_states: tuple[Tensor, ...] | None


class ClipTextModel(nn.Module):
    """Token and position embeddings, layers of causal attention and feed-forward, a norm, and maybe a projection."""

    def __init__(self, config: ClipTextConfig, projected: bool = False) -> None:
        """A tower with random weights.

        Args:
            config: its sizes.
            projected: whether it has a projection, as transformers' CLIPTextModelWithProjection.
        """
        super().__init__()
        self.config = config
        self.embeddings = ClipTextEmbeddings(config)
        self.encoder = ClipTextLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False) if projected else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_layer_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.final_layer_norm.weight.dtype

    def forward(
        self, input_ids: Tensor, output_hidden_states: bool = False, inputs_embeds: Tensor | None = None
    ) -> ClipTextOutput:
        """Read texts.

        Args:
            input_ids: (B, L), with BOS, EOS and padding.
            output_hidden_states: whether the states of all layers are wanted.
            inputs_embeds: (B, L, D) in place of the embeddings of `input_ids`, which then only say where EOS is.

        Raises:
            ValueError: more tokens than the tower has positions.
        """
        states = self.embeddings(input_ids, inputs_embeds)
        seen = [states]
        for layer in self.encoder.layers:
            states = layer(states)
            if output_hidden_states:
                seen.append(states)
        last = self.final_layer_norm(states)
        pooled = last[torch.arange(len(last), device=last.device), self._ends(input_ids)]
        projected = None if self.text_projection is None else self.text_projection(pooled)
        return ClipTextOutput(last, pooled, projected, tuple(seen) if output_hidden_states else None)

    def _ends(self, ids: Tensor) -> Tensor:
        """The place (B,) of each text's EOS. Old configs do not say its id, which is the highest of CLIP's."""
        ids = ids.int()
        end = self.config.eos_token_id
        return ids.argmax(-1) if end == _OLD_END else (ids == end).int().argmax(-1)


class ClipTextEmbeddings(nn.Module):
    """Vectors of tokens and of their positions."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor, embedded: Tensor | None = None) -> Tensor:
        """Ids (B, L), or what stands for them (B, L, D), -> (B, L, D)."""
        length, most = ids.shape[-1], self.position_embedding.num_embeddings
        if length > most:
            raise ValueError(f"{length} tokens are too many for a text tower of {most} positions")
        positions = self.position_embedding.weight[:length]
        return (self.token_embedding(ids) if embedded is None else embedded) + positions


class ClipTextLayers(nn.Module):
    """A list of layers under transformers' name."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipTextLayer(config) for _ in range(config.num_hidden_layers))


class ClipTextLayer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a skip."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = ClipTextAttention(config)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = ClipTextFeedForward(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, L, D) -> (B, L, D)."""
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class ClipTextAttention(nn.Module):
    """Each token reads itself and those before it."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, L, D) -> (B, L, D)."""
        q, k, v = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.training and states.device.type == "cpu":
            # Over so few tokens plain matrix products beat the fused attention's backward on CPUs.
            seen = torch.ones(states.shape[1], states.shape[1], dtype=torch.bool, device=states.device).tril()
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)
            mixed = F.dropout(weights, self.dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
            )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class ClipTextFeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """States (B, L, D) -> (B, L, D)."""
        return self.fc2(self.activation(self.fc1(states)))
