"""Feature caching: on most evaluations of a walk, a network's deep part is remembered in place of computed."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.networks.options import FeatureReuse

_MOST_BRANCHES = 16
"""Branches of a walk that are remembered; guidance and alternating prompts need a few."""


@dataclass(frozen=True)
class CacheSettings:
    """When the deep part of a network runs; by default always.

    Attributes:
        deepcache: at every n-th evaluation, and only the outermost blocks at the others (DeepCache, Ma et al. 2023,
            arXiv 2312.00858, with the published `cache_interval`); 1 is off.
        deepcache_branch: how many blocks and samplings of the way down run at every evaluation (`cache_branch_id`).
        first_block: where what the first block adds has changed by this share since the deep part last ran (in the
            mean over the map; first-block caching, after TeaCache, Liu et al. 2024, arXiv 2411.19108); 0 is off. A
            U-Net's deep part has no path around it, so its output itself is remembered and not what it adds.

    Raises:
        ValueError: names the option that is out of range.
    """

    deepcache: int = 1
    deepcache_branch: int = 0
    first_block: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most in (("deepcache", 1, 1000), ("deepcache_branch", 0, 100), ("first_block", 0, 10)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"cache option {name}={value} is not possible; use {least} to {most:,}")
        if self.deepcache > 1 and self.first_block > 0:
            raise ValueError("cache options deepcache and first_block were both given; use one of them")

    @property
    def on(self) -> bool:
        """Whether anything is ever remembered."""
        return self.deepcache > 1 or self.first_block > 0

    @property
    def depth(self) -> int:
        """How many blocks and samplings run before the deep part."""
        return 1 if self.first_block > 0 else self.deepcache_branch


@dataclass(frozen=True, eq=False)
class _Remembered:
    """Of one branch: what its deep part gave, the evaluation and the time of that, and what the first block added."""

    evaluation: int
    t: float
    features: Tensor
    added: Tensor


class FeatureCache:
    """What is remembered of one walk. Begin each walk with a new one: nothing is shared, so threads do not meet.

    Branches (prompt, negative prompt, perturbed attention) are remembered apart, and decided on together: a picture's
    branches stay of one age. Pictures of a batch are decided on one by one, so that none depends on its neighbours.

    Args:
        settings: when the deep part runs.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.deep_runs = 0
        """How often the deep part ran."""
        self._evaluation = 0
        self._remembered: dict[Hashable, _Remembered] = {}

    def forget(self) -> None:
        """The next evaluation runs whole."""
        self._remembered.clear()

    def call(self, branches: Sequence[Hashable], t: float) -> FeatureReuse:
        """What the network is given for one evaluation.

        Args:
            branches: of the equal parts of the batch, in order: what tells one from another.
            t: the time. Going back to more noise, the network runs whole.
        """
        return _Call(self, branches, t)

    def features(
        self, branches: Sequence[Hashable], t: float, added: Tensor, x: Tensor, deep: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """See `FeatureReuse.__call__`.

        Args:
            branches: see `call`.
            t: likewise.
            added: what the first block added, if the deep part is not the whole network.
            x: what the deep part is given.
            deep: computes it.
        """
        self._evaluation += 1
        adds = added.chunk(len(branches))
        last = [self._last(branch, t, part) for branch, part in zip(branches, adds, strict=True)]
        known = [each for each in last if each is not None]
        if len(known) < len(branches):
            return self._remember(branches, t, adds, self._run(deep, x))
        due = torch.stack([self._due(each, part) for each, part in zip(known, adds, strict=True)]).any(0)
        if not due.any():
            return known[0].features if len(known) == 1 else torch.cat([each.features for each in known])
        new = self._run(deep, x).chunk(len(branches))
        rows = due.view(-1, 1, 1, 1)
        mixed = torch.cat([torch.where(rows, part, each.features) for part, each in zip(new, known, strict=True)])
        adds = tuple(torch.where(rows, part, each.added) for part, each in zip(adds, known, strict=True))
        return self._remember(branches, t, adds, mixed)

    def _run(self, deep: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.deep_runs += 1
        return deep(x)

    def _last(self, branch: Hashable, t: float, added: Tensor) -> _Remembered | None:
        last = self._remembered.get(branch)
        return None if last is None or t > last.t or last.added.shape != added.shape else last

    def _due(self, last: _Remembered, added: Tensor) -> Tensor:
        """Whether to run for each picture: (B,)."""
        if self.settings.first_block > 0:
            change = (added - last.added).abs().flatten(1).mean(1, dtype=torch.float32)
            return change >= self.settings.first_block * last.added.abs().flatten(1).mean(1, dtype=torch.float32)
        late = self._evaluation - last.evaluation >= self.settings.deepcache
        return torch.full((added.shape[0],), late, device=added.device)

    def _remember(self, branches: Sequence[Hashable], t: float, adds: Sequence[Tensor], features: Tensor) -> Tensor:
        for branch, added, part in zip(branches, adds, features.chunk(len(branches)), strict=True):
            self._remembered.pop(branch, None)
            self._remembered[branch] = _Remembered(self._evaluation, t, part, added)
        for branch in list(self._remembered)[:-_MOST_BRANCHES]:
            del self._remembered[branch]
        return features


@dataclass(frozen=True)
class _Call:
    """A `FeatureReuse` for one evaluation."""

    cache: FeatureCache
    branches: Sequence[Hashable]
    t: float

    @property
    def depth(self) -> int:
        return self.cache.settings.depth

    def __call__(self, before: Tensor, x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
        added = x - before if self.cache.settings.first_block > 0 else before
        return self.cache.features(self.branches, self.t, added, x, deep)
