"""A denoiser: network + process + prediction type -> the picture and the noise that it predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.engine.eager import EAGER
from ldm.engine.engine import Engine
from ldm.naming import look_up
from ldm.networks.attention import AttentionHook
from ldm.networks.feature_cache import FeatureCache
from ldm.networks.network import Backbone, Network
from ldm.networks.options import IN_WORDS, PLAIN, NetworkOptions
from ldm.networks.token_merging import TokenMerging
from ldm.process import DiscreteVP, Process, per_sample

Function = Callable[[Tensor, Tensor, Conditioning | None], Tensor]
"""`(x (B, C, h, w), time (B,), conditioning) -> (B, C, h, w)`: a network that takes no options."""

Coefficient = Tensor | float
"""alpha or sigma: a number, or one per sample (B,)."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of a denoiser for x = alpha x0 + sigma eps.

    Attributes:
        x0: the picture it sees `(B, C, h, w)`, fp32.
        eps: the noise it sees `(B, C, h, w)`, fp32; x = alpha x0 + sigma eps holds, unless guidance has changed one of
            them alone (CFG++, thresholding).
        conditional: under guidance, the part that saw the prompt.
        unconditional: under guidance, the part that saw the negative prompt; None where it was not needed.
    """

    x0: Tensor
    eps: Tensor
    conditional: "Prediction | None" = None
    unconditional: "Prediction | None" = None


class Denoiser(Protocol):
    """The protocol of denoisers, as samplers call them. Guidance turns a Denoiser into a Denoiser."""

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for x `(B, C, h, w)` at time t of the process."""


class ConditionalDenoiser(Protocol):
    """A denoiser that guidance can wrap: it predicts under several conditionings in one call."""

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""

    @property
    def prediction_type(self) -> str:
        """The prediction type: the meaning of the network's output."""

    @property
    def conditioning(self) -> Conditioning | None:
        """The conditioning of the wrapped denoiser, batch B."""

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """Names of the layers in which the picture attends to itself, as hooks get them; empty without any."""

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Height and width, in tokens, of the picture in one of these layers, for x `(B, C, height, width)`."""

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction under its own conditioning."""

    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        options: Sequence[NetworkOptions] = (),
    ) -> list[Prediction]:
        """One prediction for x `(B, C, h, w)` per conditioning, from one batched network call.

        Args:
            x: `(B, C, h, w)`.
            t: the time of x.
            conditionings: what to predict under, batch B each; None is its own conditioning.
            options: none at all, or those of the network per conditioning, batch B each.
        """


def _from_epsilon(output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
    return (x - sigma * output) / alpha, output


def _from_v(output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
    square = alpha**2 + sigma**2
    return (alpha * x - square**0.5 * sigma * output) / square, (sigma * x + square**0.5 * alpha * output) / square


def _from_sample(output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
    return output, (x - alpha * output) / sigma


def _from_flow(output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> tuple[Tensor, Tensor]:
    return (x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma)


_TO_X0_EPS = {"epsilon": _from_epsilon, "v_prediction": _from_v, "sample": _from_sample, "flow": _from_flow}

_TARGETS: dict[str, Callable[[Tensor, Tensor, Coefficient, Coefficient], Tensor]] = {
    "epsilon": lambda x0, noise, alpha, sigma: noise,
    "v_prediction": lambda x0, noise, alpha, sigma: (alpha * noise - sigma * x0) / (alpha**2 + sigma**2) ** 0.5,
    "sample": lambda x0, noise, alpha, sigma: x0,
    "flow": lambda x0, noise, alpha, sigma: noise - x0,
}

PREDICTION_TYPES = tuple(_TARGETS)
"""epsilon | v_prediction | sample | flow."""


def to_x0_eps(
    output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """Turns a network's output into the picture and the noise in x = alpha x0 + sigma eps.

    Args:
        output: the network's output `(B, C, h, w)`.
        x: `(B, C, h, w)`.
        alpha: scale of the picture, a number or one per sample `(B,)`.
        sigma: scale of the noise, likewise.
        prediction_type: `epsilon` (Ho et al. 2020); `v_prediction`, (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)
            (Salimans and Ho 2022, appendix D); `sample` (x0); `flow`, eps - x0 (Liu et al. 2022).

    Returns:
        (x0, eps), both `(B, C, h, w)`.
    """
    convert = look_up("prediction_type", prediction_type, _TO_X0_EPS)
    return convert(output, x, per_sample(alpha, x), per_sample(sigma, x))


def target(x0: Tensor, noise: Tensor, alpha: Coefficient, sigma: Coefficient, prediction_type: str) -> Tensor:
    """The output that the network should have for x = alpha x0 + sigma noise; the inverse of `to_x0_eps`.

    Args:
        x0: pictures `(B, C, h, w)`.
        noise: `(B, C, h, w)`.
        alpha: scale of the picture, a number or one per sample `(B,)`.
        sigma: scale of the noise, likewise.
        prediction_type: see `to_x0_eps`.
    """
    make = look_up("prediction_type", prediction_type, _TARGETS)
    return make(x0, noise, per_sample(alpha, x0), per_sample(sigma, x0))


def check_prediction_type(prediction_type: str, process: Process) -> None:
    """Refuse a prediction type that is unknown, or that says nothing at the process's start.

    Where alpha = 0, x is the noise: a network that predicts noise has nothing to say about the picture there (Lin et
    al. 2023, section 3.2).

    Raises:
        ValueError: names the field, or both fields that contradict each other.
    """
    look_up("prediction_type", prediction_type, _TARGETS)
    if prediction_type == "epsilon" and process.alpha(process.start).item() == 0:
        other = "zero_terminal_snr=True" if isinstance(process, DiscreteVP) else f"process={type(process).__name__}"
        raise ValueError(
            f"prediction_type='epsilon' contradicts {other}: the first step is pure noise, from which epsilon gives no "
            "picture; use prediction_type='v_prediction' (or 'flow')"
        )


class NetworkDenoiser:
    """A network as a denoiser.

    Args:
        network: a `Backbone`, or any `Function`.
        process: the process that it was trained on.
        prediction_type: what its output means, see `to_x0_eps`.
        conditioning: what to draw; batch B. None for an unconditional network.
        dtype: of the network's input; by default that of the network's parameters, or x's where it has none.
        engine: what runs the network.
        hook: computes every attention, in passes that bring no hook of their own; it sees one pass at a time.
        cache: remembers deep features between evaluations, for a `Backbone`. Those that residuals or gradients take
            part in run whole.
        merging: takes tokens together in self-attention, for a `Backbone`; hooks and it exclude each other.

    Raises:
        ValueError: `check_prediction_type`.
    """

    def __init__(
        self,
        network: Backbone | Function,
        process: Process,
        prediction_type: str,
        conditioning: Conditioning | None = None,
        dtype: torch.dtype | None = None,
        engine: Engine = EAGER,
        hook: AttentionHook | None = None,
        cache: FeatureCache | None = None,
        merging: TokenMerging | None = None,
    ) -> None:
        check_prediction_type(prediction_type, process)
        if dtype is None and isinstance(network, nn.Module):
            dtype = next((parameter.dtype for parameter in network.parameters()), None)
        self.network, self.process, self.prediction_type = network, process, prediction_type
        self.conditioning, self.dtype, self.engine, self.hook = conditioning, dtype, engine, hook
        self.cache, self.merging = cache, merging
        self._backbone = network if isinstance(network, Backbone) else None
        self._run = _without_options(network) if self._backbone is None else engine.network(self._backbone)
        self._join = lru_cache(maxsize=8)(_join)

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """See `ConditionalDenoiser`; in the order in which the network holds them."""
        return () if self._backbone is None else self._backbone.self_attention_layers

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """See `ConditionalDenoiser`.

        Raises:
            ValueError: a network without such layers.
        """
        if self._backbone is None:
            raise ValueError(f"{_name(self.network)} has no self-attention layer {layer!r}")
        return self._backbone.token_grid(layer, height, width)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for x `(B, C, h, w)` (the process's own coordinates, fp32) at time t."""
        return self.predict(x, t, [None])[0]

    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        options: Sequence[NetworkOptions] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`.

        Raises:
            ValueError: options that the network or the engine does not take, or conditionings of different fields.
        """
        count = len(conditionings)
        if options and len(options) != count:
            raise ValueError(f"{len(options)} options for {count} conditionings; give none, or those of each")
        own = [self.conditioning if each is None else each for each in conditionings]
        passes = list(options) or [PLAIN] * count
        if self.hook is not None:
            passes = [replace(each, hook=each.hook or self.hook) for each in passes]
        joint = self._options(x, t, own, passes)
        x = x if count == 1 else torch.cat([x] * count)
        time = torch.full((x.shape[0],), self.process.model_time(t).item(), dtype=torch.float32, device=x.device)
        output = self._run(
            self.process.scale_input(x, t).to(self.dtype or x.dtype), time, self._join(tuple(own)), joint
        )
        alpha, sigma = (level.item() for level in self.process.levels(t))
        x0, eps = to_x0_eps(output.float(), x.float(), alpha, sigma, self.prediction_type)
        return [Prediction(*parts) for parts in zip(x0.chunk(count), eps.chunk(count), strict=True)]

    def _options(
        self, x: Tensor, t: float, conditionings: list[Conditioning | None], passes: list[NetworkOptions]
    ) -> NetworkOptions:
        """The options of the joint batch: those of the passes, and token merging and the feature cache."""
        options = NetworkOptions.cat(passes)
        if options.hook is not None:
            self._check_hosted("hook", "another attention (a hook, PAG, SEG)")
        elif self.merging is not None:
            self._check_hosted("hook", "token merging")
            hook = self.merging.hook(cast(Backbone, self._backbone), x.shape[2], x.shape[3], t)
            options = replace(options, hook=hook)
        if options.residuals is not None:
            self._check_hosted("residuals", "a side network (ControlNet)")
        elif self.cache is not None and not (torch.is_grad_enabled() and x.requires_grad):
            branches = list(zip(conditionings, [each.hook for each in passes], strict=True))
            options = replace(options, reuse=self.cache.call(branches, t))
        return options

    def _check_hosted(self, option: str, what: str) -> None:
        needed = IN_WORDS[option]
        if self._backbone is None:
            raise ValueError(f"{what} needs a network with {needed}; {_name(self.network)} takes none")
        if option not in self.engine.hosts:
            raise ValueError(f"{what} needs {needed}; the {self.engine.name} engine takes none, use eager")


def _without_options(function: Function) -> Network:
    def run(
        x: Tensor, time: Tensor, conditioning: Conditioning | None = None, options: NetworkOptions = PLAIN
    ) -> Tensor:
        return function(x, time, conditioning)

    return run


def _name(thing: object) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


def _join(conditionings: tuple[Conditioning | None, ...]) -> Conditioning | None:
    """One conditioning for the joint batch; a single one as it is."""
    if len(conditionings) == 1 or all(each is None for each in conditionings):
        return conditionings[0]
    return Conditioning.cat([each or Conditioning() for each in conditionings])
