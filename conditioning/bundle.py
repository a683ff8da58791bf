"""The record a denoising network takes besides the noisy picture and the time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

_KEEPS_DTYPE = frozenset({"labels", "mask", "sizes"})


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Everything a network is conditioned on; each field may be absent, all present ones share the batch axis.

    Attributes:
        tokens: (B, L, D) token states for cross-attention.
        pooled: (B, P) one vector per sample, added to the time embedding.
        concat: (B, C, h, w) channels joined to the noisy latent (inpainting mask, low-resolution picture).
        labels: (B,) int64 class numbers.
        mask: (B, L) bool, True where a token may be attended to.
        sizes: (B, 6) original height and width, crop top and left, target height and width in pixels (SDXL, sec. 2.2).

    Raises:
        ValueError: two fields disagree about the batch size.
    """

    tokens: Tensor | None = None
    pooled: Tensor | None = None
    concat: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    sizes: Tensor | None = None

    def __post_init__(self) -> None:
        batches = {name: value.shape[0] for name, value in self._present()}
        if len(set(batches.values())) > 1:
            found = ", ".join(f"{name} {size}" for name, size in batches.items())
            raise ValueError(f"fields of a Conditioning differ in batch size: {found}; give every field the same")

    @property
    def batch_size(self) -> int:
        """The batch size B.

        Raises:
            ValueError: a record without any field.
        """
        for _, value in self._present():
            return value.shape[0]
        raise ValueError("this Conditioning has no field, so it has no batch size; give it tokens or labels")

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> "Conditioning":
        """Move every field to `device` and cast tokens, pooled and concat to `dtype`.

        labels and mask are no real numbers, and sizes are pixel counts that half precision rounds: these keep theirs.
        """
        return self._map(
            lambda name, value: value.to(
                device=device, dtype=None if name in _KEEPS_DTYPE else dtype, non_blocking=non_blocking
            ),
        )

    def repeat(self, n: int) -> "Conditioning":
        """Each sample n times in a row (n pictures per prompt): (B, ...) -> (B * n, ...)."""
        return self._map(lambda _, value: value.repeat_interleave(n, dim=0))

    def __getitem__(self, index: slice) -> "Conditioning":
        """The samples of a slice of the batch.

        Raises:
            TypeError: anything but a slice, which would lose the axis.
        """
        if not isinstance(index, slice):
            raise TypeError(f"a Conditioning is cut by slices, not by {index!r}; use [i : i + 1] for one sample")
        return self._map(lambda _, value: value[index])

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Join along the batch axis.

        Raises:
            ValueError: only some of the parts have a field; names it.
        """
        joined: dict[str, Tensor] = {}
        for field in fields(Conditioning):
            values = [getattr(part, field.name) for part in parts]
            present = [value for value in values if value is not None]
            if not present:
                continue
            if len(present) < len(values):
                raise ValueError(
                    f"{field.name} is in {len(present)} of {len(values)} parts; it must be in all or in none"
                )
            joined[field.name] = torch.cat(present)
        return Conditioning(**joined)

    @staticmethod
    def join_tokens(parts: Sequence["Conditioning"]) -> "Conditioning":
        """Join the tokens of several encoders along L: (B, L1, D), (B, L2, D) -> (B, L1 + L2, D).

        The mask is joined too, all True for a part without one; no part with a mask gives no mask. Everything else is
        the first part's.

        Raises:
            ValueError: a part has no tokens, or tokens of another batch size or width.
        """
        tokens = [part.tokens for part in parts]
        shapes = [None if each is None else tuple(each.shape) for each in tokens]
        if len({None if shape is None else (shape[0], shape[2]) for shape in shapes}) != 1 or None in shapes:
            raise ValueError(f"tokens of shapes {shapes} cannot be joined along L; give all the same batch and width")
        whole = [each for each in tokens if each is not None]
        mask = None
        if any(part.mask is not None for part in parts):
            pairs = zip(parts, whole, strict=True)
            masks = [each.new_ones(each.shape[:2], dtype=torch.bool) if p.mask is None else p.mask for p, each in pairs]
            mask = torch.cat(masks, dim=1)
        return replace(parts[0], tokens=torch.cat(whole, dim=1), mask=mask)

    def _present(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                yield field.name, value

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> "Conditioning":
        return Conditioning(**{name: change(name, value) for name, value in self._present()})
