"""The losses of contrastive training."""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    image: Tensor, text: Tensor, scale: Tensor | float, matches: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric contrastive loss (Radford et al. 2021, arXiv:2103.00020, fig. 3; Oord et al. 2018, eq. 4).

    Args:
        image: (B, P).
        text: (N, P) with N >= B, text i belongs to picture i, texts from B on are negatives only.
        scale: inverse temperature.
        matches: (B, N) bool, True where text j is true of picture i too and so no negative. The diagonal is not read.

    Returns:
        The mean of both directions, and the share of pictures nearest to their own text; computed in fp32.
    """
    pictures = image.shape[0]
    logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    if matches is not None:
        own = torch.eye(pictures, text.shape[0], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(matches & ~own, -torch.inf)
    target = torch.arange(pictures, device=logits.device)
    accuracy = (logits.detach().argmax(dim=1) == target).float().mean()
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :pictures].T, target)) / 2, accuracy


def describes(pictures: Tensor, texts: Tensor) -> Tensor:
    """(B, N) bool: every word of text j is among the words of picture i's caption, so text j is true of picture i.

    "red apple" is true of the picture of "a red apple, 3d style", but not the other way round.

    Args:
        pictures: (B, V), 1 where a word occurs in the picture's caption.
        texts: (N, V), 1 where a word occurs in the text.
    """
    shared = pictures.float() @ texts.float().T
    return shared >= texts.float().sum(dim=-1)


def teacher_distance(guess: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """Mean of 1 - cos between guesses (..., N, T) and the teacher's embeddings (N, T) over the texts `known` (N,)."""
    distance = 1 - F.cosine_similarity(guess.float(), teacher, dim=-1)
    weight = known.float().expand_as(distance)
    return (distance * weight).sum() / weight.sum().clamp(min=1)


def word_loss(logits: Tensor, bags: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of the words that a token state must still know.

    The target is half the own word and half its bag, evenly; the bag alone where own is -1. Empty bags count nothing.

    Args:
        logits: (N, V).
        bags: (N, V), 1 for every word up to the token.
        own: (N,) the word at the token itself, or -1.
    """
    count = bags.sum(dim=-1, keepdim=True)
    even = bags / count.clamp(min=1)
    single = F.one_hot(own.clamp(min=0), bags.shape[-1]).float()
    target = torch.where((own >= 0).unsqueeze(-1), (even + single) / 2, even)
    loss = -(target * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)
    filled = (count.squeeze(-1) > 0).float()
    return (loss * filled).sum() / filled.sum().clamp(min=1)
