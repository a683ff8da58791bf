"""The random choices of a CLIP training step: captions, token positions and image patches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.training.negatives import hard_negative

# Words that are in every caption and say nothing about the picture.
_FILLERS = ("a", "an", "the", "of", "and", ",", ".")


@dataclass(frozen=True)
class ClipBatch:
    """N texts of one step: first the B captions, then the hard negatives, then the sentences without picture."""

    texts: list[str]
    sources: list[int]
    """Which picture each hard negative was made from."""
    ids: Tensor
    """(N, L) tokens, padded to the longest."""
    positions: Tensor
    """(N,) the token whose state the word loss reads: EOS half the time, else any word."""
    bags: Tensor
    """(N, V) 1 for every meaningful token of a text."""
    prefix_bags: Tensor
    """(N, V) the same up to and including `positions`."""
    own: Tensor
    """(N,) the token at `positions`, -1 where that is EOS or a filler."""


class ClipBatcher:
    """Makes a ClipBatch from captions; every draw comes from the generator of the sample it belongs to."""

    def __init__(
        self, tokenizer: ClipTokenizer, sentences: Sequence[str], hard_negatives: float, sentence_share: float
    ) -> None:
        """Prepare the choices.

        Args:
            tokenizer: of the text tower.
            sentences: texts without pictures.
            hard_negatives: chance of a wrong twin for a caption.
            sentence_share: sentences per caption.
        """
        self.tokenizer = tokenizer
        self.sentences = tuple(sentences)
        self.hard_negatives = hard_negatives
        self.sentence_share = sentence_share
        self._meaningful = torch.ones(len(tokenizer))
        self._meaningful[[tokenizer.bos_token_id, tokenizer.eos_token_id]] = 0
        for ids in map(tokenizer.ids, _FILLERS):
            if len(ids) == 1:  # the pieces of a split filler are also pieces of other words
                self._meaningful[ids] = 0

    def draw(self, captions: Sequence[str], generators: Sequence[torch.Generator]) -> ClipBatch:
        """The choices for one batch.

        Args:
            captions: B texts.
            generators: B, one for each caption.
        """
        texts, owners = list(captions), list(range(len(captions)))
        for i, (caption, generator) in enumerate(zip(captions, generators, strict=True)):
            if float(torch.rand((), generator=generator)) < self.hard_negatives:
                wrong = hard_negative(caption, generator)
                if wrong is not None:
                    texts.append(wrong)
                    owners.append(i)
        sources = owners[len(captions) :]
        for i in range(round(len(captions) * self.sentence_share) if self.sentences else 0):
            pick = int(torch.randint(len(self.sentences), (), generator=generators[i]))
            texts.append(self.sentences[pick])
            owners.append(i)
        chance = torch.stack([torch.rand((), generator=generators[owner]) for owner in owners])
        return self._assemble(texts, sources, chance)

    def _assemble(self, texts: list[str], sources: list[int], chance: Tensor) -> ClipBatch:
        ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids
        end = (ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
        # Words are at 1 .. end - 1. A draw over twice their number leaves the upper half to EOS.
        positions = torch.minimum(1 + (chance * 2 * (end - 1)).long(), end)
        own = ids.gather(1, positions.unsqueeze(1)).squeeze(1)
        return ClipBatch(
            texts=texts,
            sources=sources,
            ids=ids,
            positions=positions,
            bags=self._bag(ids, end),
            prefix_bags=self._bag(ids, positions),
            own=torch.where(self._meaningful[own] > 0, own, -1),
        )

    def _bag(self, ids: Tensor, last: Tensor) -> Tensor:
        inside = torch.arange(ids.shape[1]) <= last.unsqueeze(1)
        bags = torch.zeros(len(ids), len(self._meaningful))
        return bags.scatter_add_(1, ids, inside.float()).clamp_(max=1) * self._meaningful


def kept_patches(patches: int, share: float, generators: Sequence[torch.Generator]) -> Tensor | None:
    """(B, K) numbers of the patches each picture keeps, in order, K = round(share * patches); None when that is all."""
    count = max(1, round(share * patches))
    if count == patches:
        return None
    noise = torch.stack([torch.rand(patches, generator=generator) for generator in generators])
    return noise.topk(count, dim=1).indices.sort(dim=1).values
