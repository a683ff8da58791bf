"""Loss weights as a function of the noise level (min-SNR, P2, EDM and others)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ldm.naming import look_up

_LEAST_SNR = 1e-8  # stands for pure noise, where some weights are quotients of two zeros


@dataclass(frozen=True)
class WeightNumbers:
    """Numbers of the weightings: `gamma` of min-SNR and soft min-SNR, `p2_k` and `p2_gamma` of P2."""

    gamma: float = 5.0
    p2_k: float = 1.0
    p2_gamma: float = 1.0


ERROR_PER_X0: dict[str, Callable[[Tensor], Tensor]] = {
    "epsilon": lambda snr: snr,
    "v_prediction": lambda snr: snr + 1,
    "sample": lambda snr: snr.new_ones(snr.shape),
    "flow": lambda snr: (1 + snr.sqrt()) ** 2,
}
"""The squared error of each predicted quantity, divided by the squared error of the clean latent that it implies."""

WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, WeightNumbers], Tensor]] = {
    "constant": lambda snr, error, numbers: error,
    "min_snr": lambda snr, error, numbers: snr.clamp(max=numbers.gamma),
    "soft_min_snr": lambda snr, error, numbers: snr * numbers.gamma / (snr + numbers.gamma),
    "p2": lambda snr, error, numbers: snr / (numbers.p2_k + snr) ** numbers.p2_gamma,
    "debiased": lambda snr, error, numbers: snr.sqrt(),
    "edm": lambda snr, error, numbers: snr + 1,
}
"""Name -> weight of the clean latent's squared error, from the SNR and the predicted quantity's `ERROR_PER_X0`.

constant: the predicted quantity's own error counts the same everywhere (Ho et al. 2020, eq. 14, for epsilon).
min_snr: min(SNR, gamma) (Hang et al. 2023, eq. 8). soft_min_snr: 1 / (1 / SNR + 1 / gamma) (Crowson et al. 2024).
p2: 1 / (k + SNR)^gamma on epsilon (Choi et al. 2022, eq. 8). debiased: 1 / sqrt(SNR) on epsilon (Yu et al. 2023).
edm: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 with sigma_data = 1 (Karras et al. 2022, table 1).
"""


def loss_weight(snr: Tensor, prediction_type: str, weighting: str, numbers: WeightNumbers | None = None) -> Tensor:
    """Weight of the squared error of the *predicted quantity*, finite for every signal-to-noise ratio from 0 on.

    Args:
        snr: (alpha / sigma)^2 `(B,)`, >= 0.
        prediction_type: see `ldm.denoiser.to_x0_eps`.
        weighting: a key of `WEIGHTINGS`.
        numbers: of the weightings.

    Returns:
        `(B,)` in the dtype of `snr`.
    """
    exact = snr.double().clamp(min=_LEAST_SNR)
    error = look_up("prediction_type", prediction_type, ERROR_PER_X0)(exact)
    return (look_up("weighting", weighting, WEIGHTINGS)(exact, error, numbers or WeightNumbers()) / error).to(snr.dtype)
