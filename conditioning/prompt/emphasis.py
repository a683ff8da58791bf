"""Emphasis: how the weight in `(word:1.2)` scales the token states."""

import torch
from torch import Tensor


def scale_states(states: Tensor, weights: Tensor, restore_mean: bool = True) -> Tensor:
    """A1111: each state times its weight, then all of them times what restores the mean over the chunk.

    Weights of 1 give back `states` themselves. The arithmetic is fp32, the result has the dtype of `states`.

    Args:
        states: (L, D) of one chunk.
        weights: (L,).
        restore_mean: False is A1111's emphasis "No norm".
    """
    if bool((weights == 1).all()):
        return states
    before = states.float()
    after = before * weights.float().unsqueeze(-1)
    mean = after.mean()
    if restore_mean and bool(mean != 0):
        after = after * (before.mean() / mean)
    return after.to(states.dtype)


def blend_with_empty(states: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """ComfyUI: each state moved along the line from the empty prompt's, `empty + weight (states - empty)`.

    A state of weight 1 is left as it is. The arithmetic is fp32, the result has the dtype of `states`.

    Args:
        states: (L, D) of one chunk.
        empty: (L, D) of the empty prompt.
        weights: (L,).
    """
    base = empty.float()
    moved = base + weights.float().unsqueeze(-1) * (states.float() - base)
    return torch.where((weights == 1).unsqueeze(-1), states, moved.to(states.dtype))
