"""An autoencoder in training, with the parts that the finished model does not need."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.config import LossConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.vq import VQAutoencoder


@dataclass(frozen=True)
class Part:
    """Samples of a batch that are decoded together: output and target (b, C, H, W), the output with its graph."""

    output: Tensor
    target: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """A batch in one part or two; the latent's weighted loss (); scalars about the latent to log."""

    parts: list[Part]
    penalty: Tensor
    logs: dict[str, Tensor]


class Trained(nn.Module, ABC):
    """The trained module "autoencoder": its state is what a checkpoint must hold, `model` is what users get.

    Args:
        model: a KL or VQ autoencoder.
        loss: the recipe.
        decoder_only: freeze all that makes latents and codes of pictures.
    """

    model: Autoencoder

    def __init__(self, model: Autoencoder, loss: LossConfig, decoder_only: bool) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        self.loss = loss
        self.logvar = nn.Parameter(torch.zeros(())) if loss.learn_logvar else None
        if decoder_only:
            for part in (model.encoder, model.quant_conv, getattr(model, "quantize", None)):
                if part is not None:
                    part.requires_grad_(False)

    @abstractmethod
    def forward(self, image: Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """Reconstruct image (B, 3, H, W); sample i draws from generators[i]."""

    def decode_parts(
        self, latents: Tensor, image: Tensor, generators: list[torch.Generator], decode: Callable[[Tensor], Tensor]
    ) -> list[Part]:
        """Decode latents (B, D, h, w) as they are, or averaged over 2 x 2 cells where a sample's generator says so."""
        if self.loss.equivariance_fraction == 0:
            return [Part(decode(self._disturbed(latents, generators)), image)]
        draws = torch.stack([torch.rand((), generator=generator) for generator in generators])
        averaged, parts = draws < self.loss.equivariance_fraction, []
        if averaged.any() and (latents.shape[2] % 2 or latents.shape[3] % 2):
            raise ValueError(
                f"equivariance_fraction={self.loss.equivariance_fraction} averages 2 x 2 cells of latents, and these"
                f" have {latents.shape[2]} x {latents.shape[3]}; use pictures of another size"
            )
        for chosen, halve in ((~averaged, False), (averaged, True)):
            ids = chosen.nonzero().flatten()
            if len(ids) == 0:
                continue
            z, target = latents[ids.to(latents.device)], image[ids.to(image.device)]
            if halve:
                z, target = F.avg_pool2d(z, 2), F.avg_pool2d(target, 2)
            parts.append(Part(decode(self._disturbed(z, [generators[i] for i in ids.tolist()])), target))
        return parts

    def _disturbed(self, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """z + u latent_noise std(z) n: u in [0, 1) and normal n are drawn, and std(z) is taken, sample by sample."""
        strength = self.loss.latent_noise
        if strength == 0:
            return latents
        amounts = [strength * torch.rand((), generator=generator) for generator in generators]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
        scaled = (torch.stack(amounts)[:, None, None, None] * noise).to(latents.device, latents.dtype)
        return latents + scaled * latents.std((1, 2, 3), correction=0, keepdim=True)


class TrainedKL(Trained):
    """Reconstruction through a sample of the posterior; the penalty is its divergence to N(0, 1)."""

    model: KLAutoencoder

    def forward(self, image: Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """See `Trained`. Logs "kl", in nats per latent value."""
        config = self.model.config
        shape = (config.latent_channels, image.shape[2] // config.factor, image.shape[3] // config.factor)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(image.device)
        posterior = self.model.encode(image)
        parts = self.decode_parts(posterior.sample(noise), image, generators, self.model.decode)
        kl = posterior.kl().mean()
        return Reconstruction(
            parts, self.loss.kl_weight * kl / image[0].numel(), {"kl": kl / posterior.mean[0].numel()}
        )


class TrainedVQ(Trained):
    """Reconstruction through the codebook; the penalty draws codes and latents together.

    How often each code is chosen is counted with a half-life of `loss.code_memory` samples; usage, perplexity and
    restarts rest on these counts, which are part of the checkpoint. Each process counts its own share of a batch.
    """

    model: VQAutoencoder
    code_counts: Tensor

    def __init__(self, model: VQAutoencoder, loss: LossConfig, decoder_only: bool) -> None:
        super().__init__(model, loss, decoder_only)
        self.register_buffer("code_counts", torch.zeros(model.config.codebook_size))
        self.restarts = loss.restart_codes and not decoder_only

    def forward(self, image: Tensor, generators: list[torch.Generator]) -> Reconstruction:
        """See `Trained`. Logs "codebook" (squared distance of latents and codes), "usage" and "perplexity"."""
        model, loss = self.model, self.loss
        latents = model.encode(image).mean
        learning = self.training and torch.is_grad_enabled()
        if learning and self.restarts:
            self._restart(latents.detach(), generators)
        quantized = model.quantize(latents)
        if learning:
            self._count(quantized.indices)
        penalty = loss.codebook_weight * quantized.codebook_loss + loss.commitment_weight * quantized.commitment_loss
        logs = {"codebook": quantized.codebook_loss, "usage": usage(self.code_counts)}
        logs["perplexity"] = perplexity(self.code_counts)
        return Reconstruction(self.decode_parts(quantized.codes, image, generators, model.decode_codes), penalty, logs)

    @torch.no_grad()
    def _count(self, indices: Tensor) -> None:
        chosen = torch.bincount(indices.flatten(), minlength=len(self.code_counts))
        self.code_counts.mul_(0.5 ** (len(indices) / self.loss.code_memory)).add_(chosen)

    @torch.no_grad()
    def _restart(self, latents: Tensor, generators: list[torch.Generator]) -> None:
        """Put the dead codes on random latents (B, D, h, w), a share of them on each picture's."""
        codes = self.model.quantize.embedding.weight
        dead = (~alive(self.code_counts)).nonzero().flatten()
        for i, (latent, generator) in enumerate(zip(latents.flatten(2), generators, strict=True)):
            mine = dead[i :: len(latents)]
            cells = torch.randint(latent.shape[1], (len(mine),), generator=generator).to(latent.device)
            codes[mine] = latent[:, cells].T.to(codes.dtype)
        self.code_counts[dead] = 1.0  # they have half a memory to be chosen
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(codes, 0)  # parameters must stay equal on all processes


def trained(model: Autoencoder, loss: LossConfig, decoder_only: bool) -> Trained:
    """The trained module of a model."""
    if isinstance(model, VQAutoencoder):
        return TrainedVQ(model, loss, decoder_only)
    return TrainedKL(model, loss, decoder_only)


def alive(counts: Tensor) -> Tensor:
    """counts: (K,) decayed counts of codes -> (K,) bool, chosen within the last half-life or often before it."""
    return counts >= 0.5


def usage(counts: Tensor) -> Tensor:
    """Share of codes that are alive, in [0, 1]."""
    return alive(counts).float().mean()


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes' shares: K codes used evenly give K, one code alone gives 1."""
    shares = counts / counts.sum().clamp_min(1e-12)
    return torch.exp(-torch.xlogy(shares, shares).sum())
