"""How an autoencoder's latents become what a denoiser sees, and how per-channel whitening hides in the autoencoder."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoencoder.build import Autoencoder
from autoencoder.kl import KLAutoencoder


@dataclass(frozen=True)
class LatentFormat:
    """The affine map between autoencoder latents and the denoiser's, z_model = (z - shift - mean) / std * scale.

    Attributes:
        scale: factor for all channels (SD 1: 0.18215, SD XL: 0.13025).
        shift: subtracted from all channels first (SD 3, FLUX).
        channels: channels of the latent.
        factor: pixels per latent cell along each axis.
        mean: per-channel mean, `channels` numbers, or None for 0.
        std: per-channel standard deviation, or None for 1.
        preview: matrix for a cheap look, channels + 1 rows of (red, green, blue); the last row is the offset.

    Raises:
        ValueError: mean, std or preview has the wrong number of rows.
    """

    scale: float = 1.0
    shift: float = 0.0
    channels: int = 4
    factor: int = 8
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preview: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        for name, rows in (("mean", self.channels), ("std", self.channels), ("preview", self.channels + 1)):
            value = getattr(self, name)
            if value is not None and len(value) != rows:
                raise ValueError(f"{name} has {len(value)} entries; channels={self.channels} needs {rows}")

    def to_model(self, z: Tensor) -> Tensor:
        """Autoencoder latents z (B, C, h, w) -> what the denoiser sees, about unit variance."""
        z = z - self.shift
        if self.mean is not None:
            z = z - _per_channel(self.mean, z)
        if self.std is not None:
            z = z / _per_channel(self.std, z)
        return z * self.scale

    def to_autoencoder(self, z: Tensor) -> Tensor:
        """The inverse of `to_model`, (B, C, h, w) -> (B, C, h, w)."""
        z = z / self.scale
        if self.std is not None:
            z = z * _per_channel(self.std, z)
        if self.mean is not None:
            z = z + _per_channel(self.mean, z)
        return z + self.shift

    def to_rgb(self, z: Tensor) -> Tensor:
        """The denoiser's latents z (B, C, h, w) -> rough colours (B, 3, h, w) in [0, 1] without the decoder.

        Raises:
            ValueError: the format has no preview matrix.
        """
        if self.preview is None:
            raise ValueError("preview=None: this latent format has no preview matrix; make one with fit_preview")
        matrix = torch.tensor(self.preview, device=z.device, dtype=torch.float32)
        rgb = torch.einsum("bchw,cr->brhw", z.float(), matrix[:-1]) + matrix[-1, :, None, None]
        return (rgb * 0.5 + 0.5).clamp(0.0, 1.0)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]


def fit_preview(z: Tensor, x: Tensor) -> tuple[tuple[float, float, float], ...]:
    """Least squares `LatentFormat.preview` from the denoiser's latents z (B, C, h, w) and pictures x (B, 3, H, W)."""
    small = torch.nn.functional.adaptive_avg_pool2d(x.double(), (z.shape[2], z.shape[3])).movedim(1, -1).flatten(0, 2)
    features = z.double().movedim(1, -1).flatten(0, 2)
    features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    red, green, blue = torch.linalg.lstsq(features, small).solution.unbind(1)
    return tuple(zip(red.tolist(), green.tolist(), blue.tolist(), strict=True))


@torch.no_grad()
def measure_latents(autoencoder: Autoencoder, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each latent channel over pictures, posterior noise included.

    Args:
        autoencoder: the model to measure.
        batches: pictures (B, 3, H, W) in [-1, 1], in as many batches as the statistics should rest on.

    Returns:
        (mean, std), each (C,) float64 on the CPU. The variance is the law of total variance's: variance of the
        posterior means plus mean of the posterior variances.

    Raises:
        ValueError: batches is empty.
    """
    count, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for x in batches:
        posterior = autoencoder.encode(x)
        mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
        count += mean.numel() // mean.shape[1]
        total = total + mean.sum((0, 2, 3)).cpu()
        square = square + (mean.square() + variance).sum((0, 2, 3)).cpu()
    if not count:
        raise ValueError("batches is empty; give measure_latents at least one batch of pictures")
    mean = total / count
    return mean, (square / count - mean.square()).clamp_min(0.0).sqrt()


@torch.no_grad()
def fold_whitening(autoencoder: KLAutoencoder, mean: Tensor, std: Tensor) -> None:
    """Fold (z - mean) / std into `quant_conv` and its inverse into `post_quant_conv`, in place.

    Afterwards encode gives whitened latents (their logvar included), decode expects them, and decode(encode(x)) is
    what it was.

    Args:
        autoencoder: the model to change.
        mean: (C,) mean of each latent channel.
        std: (C,) standard deviation of each latent channel, above 0.

    Raises:
        ValueError: the autoencoder has no quant_conv, or a std is not above 0.
    """
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    if quant is None or post is None:
        raise ValueError("quant_conv=False leaves no place for whitening; put mean and std into the LatentFormat")
    if not bool((std > 0).all()):
        raise ValueError(f"std={[round(s, 6) for s in std.tolist()]} holds a channel that never varies; train longer")
    assert quant.bias is not None and post.bias is not None
    channels = len(mean)
    # Float64 between: the folded convolutions are then as exact as fp32 parameters can be.
    mean, std = mean.double().to(quant.weight.device), std.double().to(quant.weight.device)
    weight, bias = quant.weight.double(), quant.bias.double()
    weight[:channels] /= std[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    bias[channels:] -= 2.0 * std.log()
    quant.weight.copy_(weight)
    quant.bias.copy_(bias)
    weight, bias = post.weight.double(), post.bias.double()
    post.bias.copy_(bias + weight[:, :, 0, 0] @ mean)
    post.weight.copy_(weight * std[None, :, None, None])
