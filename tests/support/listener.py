"""A small network that hears time and conditioning, and helpers of the tests of guidance."""

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser, Prediction, target, to_x0_eps
from ldm.networks.network import Network
from ldm.process import EDM, DiscreteVP, Flow

PROCESSES = {"vp": DiscreteVP(), "vp_zero_snr": DiscreteVP(zero_terminal_snr=True), "flow": Flow(), "edm": EDM()}
PROMPT = Conditioning(pooled=torch.tensor([[0.3, -1.0], [1.2, 0.4]]))
NEGATIVE = Conditioning(pooled=torch.tensor([[-0.5, 0.2], [0.1, -0.7]]))
EMPTY = Conditioning(pooled=torch.tensor([[0.0, 0.1], [0.0, 0.1]]))


class Listener(nn.Module):
    """A convolution with conditioning, which remembers the sizes of its batches."""

    def __init__(self, seed: int = 0, kernel: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.embed = nn.Conv2d(3, 3, kernel, padding=kernel // 2), nn.Linear(2, 3)
        self.batches: list[int] = []

    def forward(self, x: Tensor, time: Tensor, conditioning: Conditioning | None) -> Tensor:
        self.batches.append(len(x))
        assert conditioning is not None and conditioning.pooled is not None
        shift = self.embed(conditioning.pooled)[:, :, None, None]
        return torch.tanh(self.conv(x) + shift + time[:, None, None, None] / 1000)


def start(channels: int = 3) -> Tensor:
    """An x (2, channels, 6, 6)."""
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(1))


def parts(name: str, kind: str = "v_prediction") -> tuple[Listener, NetworkDenoiser, Tensor]:
    """A network, its denoiser conditioned on PROMPT, and an x."""
    network = Listener().requires_grad_(False)
    return network, NetworkDenoiser(network, PROCESSES[name], kind, PROMPT), start()


def translated(network: Network, process: DiscreteVP, kind: str) -> NetworkDenoiser:
    """The prediction of an epsilon network, given by a network of another prediction type, conditioned on PROMPT."""

    def says(x: Tensor, time: Tensor, conditioning: Conditioning | None) -> Tensor:
        alpha, sigma = process.levels(time)
        x0, eps = to_x0_eps(network(x, time, conditioning), x, alpha, sigma, "epsilon")
        return target(x0, eps, alpha, sigma, kind)

    return NetworkDenoiser(says, process, kind, PROMPT)


def same(got: Prediction, wanted: Prediction, tolerance: float = 1e-5) -> None:
    """Both say the same of picture and noise."""
    torch.testing.assert_close((got.x0, got.eps), (wanted.x0, wanted.eps), rtol=tolerance, atol=tolerance)


def identical(got: Prediction, wanted: Prediction) -> bool:
    """Both say the same bits."""
    return torch.equal(got.x0, wanted.x0) and torch.equal(got.eps, wanted.eps)
