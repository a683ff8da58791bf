"""How guidance is chained: links list the network passes they need, all run in one call, then links combine them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.interval import WHOLE, Interval, check_interval, inside
from ldm.networks.options import PLAIN, NetworkOptions
from ldm.process import Process


@dataclass(frozen=True)
class NetworkPass:
    """One prediction for x. Links that need the same one share it.

    Attributes:
        denoiser: which one predicts.
        conditioning: under what, batch B; None is the denoiser's own. The same one means the same object.
        options: of the network in this pass alone, batch B.
    """

    denoiser: ConditionalDenoiser
    conditioning: Conditioning | None = None
    options: NetworkOptions = PLAIN


Predictions = Mapping[NetworkPass, Prediction]


def predict_all(x: Tensor, t: float, passes: Iterable[NetworkPass]) -> dict[NetworkPass, Prediction]:
    """Every distinct pass for x `(B, C, h, w)` at time t, by one network call per denoiser."""
    distinct = list(dict.fromkeys(passes))
    predictions: dict[NetworkPass, Prediction] = {}
    for denoiser in dict.fromkeys(network_pass.denoiser for network_pass in distinct):
        mine = [network_pass for network_pass in distinct if network_pass.denoiser is denoiser]
        made = denoiser.predict(x, t, [each.conditioning for each in mine], [each.options for each in mine])
        predictions |= zip(mine, made, strict=True)
    return predictions


class GuidedDenoiser(ABC):
    """A denoiser made of network passes and of how they are combined; samplers call it like any other."""

    source: ConditionalDenoiser
    """The denoiser at the bottom of the chain."""

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""
        return self.source.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The guided prediction for x `(B, C, h, w)` at time t, with its parts."""
        return self.answer(x, t, predict_all(x, t, self.passes(x, t)))

    @abstractmethod
    def passes(self, x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        """The network passes for x `(B, C, h, w)` at time t."""

    @abstractmethod
    def answer(self, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        """The prediction, `conditional` included, from those of all passes."""


class Unguided(GuidedDenoiser):
    """The bottom of a chain: the denoiser as it is, under its own conditioning."""

    def __init__(self, denoiser: ConditionalDenoiser) -> None:
        self.source, self._own = denoiser, NetworkPass(denoiser)

    def passes(self, x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        """One pass, under the denoiser's own conditioning."""
        return (self._own,)

    def answer(self, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        """The prediction of that pass, unchanged."""
        only = predictions[self._own]
        return Prediction(only.x0, only.eps, conditional=only)


class Guidance(GuidedDenoiser):
    """One link: wraps a denoiser, or the chain so far.

    Outside its interval and at its neutral setting a link needs no pass and changes nothing, bit for bit.

    Args:
        denoiser: a plain denoiser or other guidance.
        interval: the part of the way from noise (0) to picture (1), both ends included, on which to guide.

    Raises:
        ValueError: an impossible interval.
    """

    neutral: bool = False
    """Whether the setting is the one that changes nothing."""

    def __init__(self, denoiser: ConditionalDenoiser | GuidedDenoiser, interval: Interval = WHOLE) -> None:
        check_interval("guidance_interval", interval)
        self.inner = denoiser if isinstance(denoiser, GuidedDenoiser) else Unguided(denoiser)
        self.source, self.interval = self.inner.source, interval

    def passes(self, x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        """Those of the chain within, and this link's own while it is active."""
        inner = self.inner.passes(x, t)
        return self._questions(inner, x, t) if self._active(t) else inner

    def answer(self, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        """The prediction of the chain within, guided while this link is active."""
        inner = self.inner.answer(x, t, predictions)
        return self._answer(inner, x, t, predictions) if self._active(t) else inner

    def _active(self, t: float) -> bool:
        return not self.neutral and inside(self.process, t, self.interval)

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        """The inner passes with this link's own."""
        return inner

    @abstractmethod
    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        """The inner prediction changed by this link."""


def plain(prediction: Prediction) -> Prediction:
    """The conditional part of a prediction, which is the prediction itself before any guidance."""
    return prediction.conditional or prediction


def push_away(prediction: Prediction, worse: Prediction, scale: float) -> Prediction:
    """prediction + scale * (conditional - worse), the step of every guidance by a worse version of the network."""
    better = plain(prediction)
    return replace(
        prediction,
        x0=prediction.x0 + scale * (better.x0 - worse.x0),
        eps=prediction.eps + scale * (better.eps - worse.eps),
    )


def eps_following(x0: Tensor, reference: Prediction, process: Process, t: float) -> Tensor:
    """The eps that goes with a changed x0 `(B, C, h, w)`: alpha x0 + sigma eps stays what it is in the reference."""
    alpha, sigma = (level.item() for level in process.levels(t))
    return reference.eps - (alpha / sigma if sigma > 0 else 0.0) * (x0 - reference.x0)


def fit_batch(negative: Conditioning, denoiser: ConditionalDenoiser, name: str = "negative") -> Conditioning:
    """A conditioning with the prompt's batch size B, from one of B (the same object) or of 1.

    Raises:
        ValueError: another batch size, or a denoiser without conditioning.
    """
    if denoiser.conditioning is None:
        raise ValueError("guidance needs a denoiser with a conditioning; this one has none")
    batch = denoiser.conditioning.batch_size
    if negative.batch_size == 1 and batch > 1:
        negative = negative.repeat(batch)
    if negative.batch_size != batch:
        raise ValueError(f"{name} has batch size {negative.batch_size}, the prompt {batch}; use {batch} or 1")
    return negative
