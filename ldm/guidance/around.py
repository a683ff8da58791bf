"""The base of denoisers that predict by another one, in the same place of a chain of guidance."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.networks.options import NetworkOptions
from ldm.process import Process


class Around(ABC):
    """A `ConditionalDenoiser` around another one, whose process, conditioning and layers are its own.

    Args:
        denoiser: that is called.
    """

    def __init__(self, denoiser: ConditionalDenoiser) -> None:
        self._denoiser = denoiser

    @property
    def process(self) -> Process:
        """The wrapped denoiser's process."""
        return self._denoiser.process

    @property
    def prediction_type(self) -> str:
        """The wrapped denoiser's."""
        return self._denoiser.prediction_type

    @property
    def conditioning(self) -> Conditioning | None:
        """The wrapped denoiser's, of the whole picture."""
        return self._denoiser.conditioning

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """The wrapped denoiser's."""
        return self._denoiser.self_attention_layers

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """The wrapped denoiser's."""
        return self._denoiser.token_grid(layer, height, width)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for x `(B, C, h, w)` at time t under its own conditioning."""
        return self.predict(x, t, [None])[0]

    @abstractmethod
    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        options: Sequence[NetworkOptions] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`."""
