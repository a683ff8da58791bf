"""The two towers of a small CLIP and the heads that train them."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from conditioning.clip.transformer import ClipTextConfig, ClipTextModel

if TYPE_CHECKING:
    from transformers import CLIPModel

_LENGTH_GROUPS = 4


class TowerOutput(NamedTuple):
    """The outputs of one training forward; N texts, B pictures, all in the dtype the networks ran in."""

    image: Tensor
    """(B, P) picture embeddings, not normalised."""
    text: Tensor
    """(N, P) text embeddings, not normalised."""
    sentence: Tensor | None
    """(2, N, T) guesses of the teacher's embedding from the EOS state and from the last word's state."""
    words: Tensor
    """(N, V) logits of the words known to the state at `positions`."""
    log_scale: Tensor
    """() log of the inverse temperature."""


class ClipTowers(nn.Module):
    """transformers' CLIPModel with two linear heads on the token states of the text tower."""

    clip: "CLIPModel"

    def __init__(self, clip: "CLIPModel", teacher_width: int | None) -> None:
        """Add the heads to a CLIP model.

        Args:
            clip: the two towers.
            teacher_width: length T of the teacher's embeddings, None to do without that head.
        """
        super().__init__()
        text: Any = clip.config.text_config
        self.clip = clip
        self.eos = text.eos_token_id
        self.sentence_head = nn.Linear(text.hidden_size, teacher_width) if teacher_width is not None else None
        self.word_head = nn.Linear(text.hidden_size, text.vocab_size)

    def forward(self, ids: Tensor, positions: Tensor, pixels: Tensor, keep: Tensor | None) -> TowerOutput:
        """The outputs for one batch of texts and pictures.

        Args:
            ids: (N, L) with BOS and EOS.
            positions: (N,) token of each text that the word head reads.
            pixels: (B, 3, H, W) in [-1, 1].
            keep: (B, K) numbers of the patches that are seen, or None for all.
        """
        end = ids.eq(self.eos).int().argmax(dim=-1)
        wanted = torch.stack([end, end - 1, positions], dim=1)
        return self.heads(self._token_states(ids, end, wanted), pixels, keep)

    def heads(self, states: Tensor, pixels: Tensor, keep: Tensor | None) -> TowerOutput:
        """The outputs of the heads and of the picture tower, from states of the text tower.

        Args:
            states: (N, 3, D) at EOS, at the last word and at the token that the word head reads.
            pixels: (B, 3, H, W) in [-1, 1].
            keep: (B, K) numbers of the patches that are seen, or None for all.
        """
        sentence, last_word, own_word = states.unbind(dim=1)
        guess = None
        if self.sentence_head is not None:
            guess = self.sentence_head(torch.stack([sentence, last_word]))
        return TowerOutput(
            image=self.clip.visual_projection(encode_patches(self.clip.vision_model, pixels, keep)),
            text=self.clip.text_projection(sentence),
            sentence=guess,
            words=self.word_head(own_word),
            log_scale=self.clip.logit_scale,
        )

    def _token_states(self, ids: Tensor, end: Tensor, wanted: Tensor) -> Tensor:
        """The states (N, K, D) at the tokens `wanted` (N, K), none of them behind EOS at `end` (N,).

        Texts of like length go through the tower together, cut behind their longest: the tower is causal, so what
        stands behind EOS changes nothing, and half of a mixed batch would be padding.
        """
        order = end.argsort(stable=True)
        pieces = []
        for rows in order.chunk(_LENGTH_GROUPS):
            states = self.clip.text_model(input_ids=ids[rows, : int(end[rows].max()) + 1]).last_hidden_state
            pieces.append(states.gather(1, wanted[rows].unsqueeze(-1).expand(-1, -1, states.shape[-1])))
        return torch.cat(pieces)[order.argsort()]


def encode_patches(vision: Any, pixels: Tensor, keep: Tensor | None) -> Tensor:
    """The class state (B, D) of a CLIP image tower that sees only the patches `keep` (B, K) of each picture.

    Leaving patches out in training costs little and saves their time (Li et al. 2023, arXiv:2212.00794, sec. 3: FLIP).
    None keeps all, which is the plain tower.
    """
    states = vision.embeddings(pixels)
    if keep is not None:
        # The class token stands before the patches and always stays.
        index = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], dim=1)
        states = states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
    states = vision.encoder(inputs_embeds=vision.pre_layrnorm(states)).last_hidden_state
    return vision.post_layernorm(states[:, 0])


def text_encoder_of(clip: "CLIPModel") -> ClipTextModel:
    """The text tower of a CLIPModel as one of its own, sharing the weights."""
    config: Any = clip.config.text_config
    with torch.device("meta"):
        model = ClipTextModel(ClipTextConfig.from_fields(config.to_dict()))
    model.load_state_dict(clip.text_model.state_dict(), assign=True)
    return model
