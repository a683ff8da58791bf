"""The denoiser's objective: predict v (or noise, or the latent) of a cached latent at a random time."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.bundle import Conditioning
from conditioning.clip_text import ClipText
from ldm.denoiser import NetworkDenoiser, check_prediction_type, target
from ldm.guidance import ClassifierFreeGuidance
from ldm.io.folder import Defaults, ModelParts, save_folder
from ldm.noise import NoiseSource
from ldm.process import DiscreteVP
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.training.objective import Batch
from ldm.unet import UNet
from ldm.upscaler.model import Upscaler

WEIGHTINGS = ("uniform", "min_snr")
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class DiffusionConfig:
    """How noise is added, what the network predicts and how errors are weighed.

    Attributes:
        prediction_type: epsilon, v_prediction or sample.
        beta_schedule, beta_start, beta_end, num_train_timesteps: the noise table, in diffusers' terms.
        zero_terminal_snr: rescale the table so that the last step is pure noise (Lin et al. 2024, algorithm 1).
        weighting: `uniform` in the predicted quantity, or `min_snr` (Hang et al. 2023).
        min_snr_gamma: largest weight of `min_snr`, in units of the error of the clean latent.
        condition_dropout: share of samples trained without their caption or label, for classifier-free guidance.
        guidance_scale, steps: of the previews, and the defaults of the exported model.
    """

    prediction_type: str = "v_prediction"
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    zero_terminal_snr: bool = True
    weighting: str = "min_snr"
    min_snr_gamma: float = 5.0
    condition_dropout: float = 0.1
    guidance_scale: float = 4.0
    steps: int = 25

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"diffusion.weighting={self.weighting!r} is not one of {', '.join(WEIGHTINGS)}")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"diffusion.condition_dropout={self.condition_dropout} is a share: use 0 to below 1")

    def process(self) -> DiscreteVP:
        """The noising process that these numbers describe."""
        return DiscreteVP(
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            num_train_timesteps=self.num_train_timesteps,
            zero_terminal_snr=self.zero_terminal_snr,
        )


def loss_weight(snr: Tensor, prediction_type: str, weighting: str, gamma: float) -> Tensor:
    """Weight of the squared error of the *predicted quantity* at signal-to-noise ratio `snr` (B,).

    min-SNR-γ weighs the clean latent's error by min(SNR, γ) (Hang et al. 2023, eq. 8). An error of ε is 1 / SNR and an
    error of v is 1 / (SNR + 1) of that of the clean latent; the ε form is written so that SNR = 0 gives 1, not 0 / 0.
    """
    if weighting == "uniform":
        return torch.ones_like(snr)
    if prediction_type == "epsilon":
        return gamma / snr.clamp(min=gamma)
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else 1)


@dataclass(frozen=True)
class FrozenParts:
    """What surrounds the denoiser and is exported with it. `text=None`: conditioned on labels, or on nothing."""

    autoencoder: Autoencoder
    latent_format: LatentFormat
    text: ClipText | None = None
    upscaler: Upscaler | None = None


class LatentDiffusionObjective:
    """Trains a U-Net on cached latents, conditioned on text, on labels, or on nothing.

    Args:
        unet: fp32, with `in_channels` of the latent.
        frozen: the finished parts of the model.
        config: noise, target, weights.
        picture_size: of the pictures that the latents came from, in pixels.
        export_dtype: of the exported weights.
    """

    def __init__(
        self,
        unet: UNet,
        frozen: FrozenParts,
        config: DiffusionConfig,
        picture_size: int,
        export_dtype: torch.dtype = torch.float32,
    ) -> None:
        check_prediction_type(config.prediction_type, config.process())
        self.players: dict[str, nn.Module] = {"unet": unet.to(memory_format=torch.channels_last)}  # type: ignore[call-overload]
        self._frozen = frozen
        for part in (frozen.autoencoder, frozen.text):
            if part is not None:
                part.eval().requires_grad_(False)
        self._export_dtype = export_dtype
        self._config = config
        self._process = config.process()
        self._picture_size = picture_size
        times = torch.arange(config.num_train_timesteps, dtype=torch.float64)
        self._alpha = self._process.alpha(times).float()
        self._sigma = self._process.sigma(times).float()

    def loss(
        self, player: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        """Mean weighted squared error of the prediction over the batch."""
        config, unet = self._config, self.players[player]
        device = next(unet.parameters()).device
        shape = batch["mean"].shape[1:]
        posterior_noise, noise = (
            torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device) for _ in range(2)
        )
        latent = self._frozen.latent_format.to_model(batch["mean"].float() + batch["std"].float() * posterior_noise)
        time = self._times(batch["index"])
        alpha, sigma = (table[time].view(-1, 1, 1, 1).to(device) for table in (self._alpha, self._sigma))
        noisy = (alpha * latent + sigma * noise).contiguous(memory_format=torch.channels_last)
        dropped = [float(torch.rand((), generator=g)) < config.condition_dropout for g in generators]
        prediction = unet(noisy, time.to(device), self._conditioning(batch, dropped)).float()
        wanted = target(latent, noise, alpha, sigma, config.prediction_type)
        error = (prediction - wanted).square().mean((1, 2, 3))
        snr = (alpha / sigma).square().flatten()
        weight = loss_weight(snr, config.prediction_type, config.weighting, config.min_snr_gamma)
        return {"loss": (weight * error).mean(), "unweighted": error.mean().detach()}

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Pictures for the batch's captions or labels, from noise that is fixed per place in the batch."""
        config, n = self._config, len(batch["mean"])
        noise = NoiseSource(range(n), batch["mean"].shape[1:], batch["mean"].device)
        conditioning = self._conditioning(batch, [False] * n)
        denoise = NetworkDenoiser(modules["unet"], self._process, config.prediction_type, conditioning)
        guided = ClassifierFreeGuidance(denoise, self._conditioning(batch, [True] * n), config.guidance_scale)
        grid = make_grid("trailing", self._process, config.steps)
        latent = noise()
        for step in SAMPLERS["ddim"](guided, latent, grid, noise):
            latent = step.x
        pictures = self._frozen.autoencoder.decode(self._frozen.latent_format.to_autoencoder(latent).float()).float()
        return {"pictures": pictures / 2 + 0.5}

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        """A whole model folder in the Stable Diffusion layout."""
        config, unet = self._config, modules["unet"]
        assert isinstance(unet, UNet)
        parts = ModelParts(
            text=self._frozen.text,
            unet=unet,
            autoencoder=self._frozen.autoencoder,
            latent_format=self._frozen.latent_format,
            process=self._process,
            prediction_type=config.prediction_type,
            defaults=Defaults(
                width=self._picture_size,
                height=self._picture_size,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance_scale,
                sampler="ddim",
                schedule="trailing",
            ),
            upscaler=self._frozen.upscaler,
        )
        save_folder(parts, folder, self._export_dtype)

    def _times(self, index: Tensor) -> Tensor:
        """Training times (B,), spread evenly over any run of samples (golden-ratio sequence), so losses vary less."""
        places = (index.double() * _GOLDEN) % 1
        return (places * self._config.num_train_timesteps).long()

    def _conditioning(self, batch: Batch, dropped: list[bool]) -> Conditioning:
        text = self._frozen.text
        if text is not None:
            captions = ["" if drop else caption for caption, drop in zip(batch["caption"], dropped, strict=True)]
            with torch.no_grad():
                return text.encode(captions)
        unet = self.players["unet"]
        if isinstance(unet, UNet) and unet.config.num_classes is not None:
            null = unet.config.num_classes - 1  # the last class stands for "no class"
            labels = [null if drop else int(label) for label, drop in zip(batch["label"], dropped, strict=True)]
            return Conditioning(labels=torch.tensor(labels, device=batch["mean"].device))
        return Conditioning()
