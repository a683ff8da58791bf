"""What a loaded model is made of, under diffusers' names, and what its networks do alone."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.kl import Gaussian
from autoencoder.tiled import Decoding, decode_in_tiles, encode_in_tiles
from autoencoder.tiles import Tiling
from conditioning.bundle import Conditioning
from conditioning.clip.pair import ClipTextEncoder
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.clip.transformer import ClipTextModel
from conditioning.prompt.two_texts import two_texts
from ldm.engine.engine import Engine
from ldm.engine.names import MODEL, NONE
from ldm.engine.offload import Offload, offload_for
from ldm.engine.placement import device_for
from ldm.engine.precision import DTYPES
from ldm.families.kinds import TEXT_TO_IMAGE
from ldm.families.parts import ModelParts
from ldm.generation.reader import reader_of
from ldm.generation.result import check_finite, is_finite
from ldm.generation.vae_memory import VAE_MEMORY
from ldm.generation.within_memory import coded_within_memory
from ldm.io.folder.pipelines import is_xl
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.text_encoder import tokenizer_of, towers_by_folder
from ldm.networks.unet import UNet

if TYPE_CHECKING:
    from conditioning.clip.textual_inversion import Embedding

_log = logging.getLogger(__name__)


class Components:
    """The networks of a model, where they are, and in which type.

    Attributes:
        name: what recipes call the model.
        device: where the networks are.
        engine: what runs the networks.
        embeddings: textual inversions by the words of prompts that call them.
        vae_memory: GB that encoding or decoding a picture may take before it goes tile by tile.
        wraps: whether pictures go round in height and in width.
    """

    _parts: ModelParts | None
    name: str
    device: torch.device
    engine: Engine
    _offload: Offload  # shared by the views of a model
    embeddings: "dict[str, Embedding]"
    vae_memory: float = VAE_MEMORY
    wraps: tuple[bool, bool] = (False, False)

    @property
    def parts(self) -> ModelParts:
        """All of the model.

        Raises:
            ValueError: it was unloaded.
        """
        if self._parts is None:
            raise ValueError(f"model {self.name!r} was unloaded; open it again")
        return self._parts

    @parts.setter
    def parts(self, parts: ModelParts) -> None:
        self._parts = parts

    def __repr__(self) -> str:
        if self._parts is None:
            return f"{type(self).__name__}({self.name!r}: unloaded)"
        networks = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        sizes = (f"{name} {_in_words(sum(p.numel() for p in part.parameters()))}" for name, part in networks.items())
        kind = self.parts.kind if self.parts.text is not None or self.parts.kind != TEXT_TO_IMAGE else "class to image"
        what = f"{'XL, ' if is_xl(self.parts.unet.config) else ''}{kind}, predicts {self.parts.prediction_type}"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.name!r}: {what}; {', '.join(sizes)}; {dtype} on {self.device})"

    @property
    def unet(self) -> UNet:
        """The denoising network."""
        return self.parts.unet

    @property
    def vae(self) -> Autoencoder:
        """The autoencoder."""
        return self.parts.autoencoder

    @property
    def text_encoder(self) -> ClipTextModel | None:
        """The model that reads prompts: the first of SDXL's two. None where there is none."""
        return self.components.get("text_encoder")

    @property
    def text_encoder_2(self) -> ClipTextModel | None:
        """SDXL's second one; None for other models."""
        return self.components.get("text_encoder_2")

    @property
    def tokenizer(self) -> ClipTokenizer | None:
        """What cuts prompts into tokens; None for a model without text encoder."""
        return None if self.parts.text is None else self.parts.text.tokenizer

    @property
    def components(self) -> dict[str, Any]:
        """All networks and tokenizers that the model has, by diffusers' names; our upscaler is `upscaler`."""
        parts: dict[str, Any] = {
            "unet": self.parts.unet,
            "vae": self.parts.autoencoder,
            "upscaler": self.parts.upscaler,
        }
        for place, tower in {} if self.parts.text is None else towers_by_folder(self.parts.text).items():
            parts |= {place: tower.model, tokenizer_of(place): tower.tokenizer}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def scheduler(self) -> Any:
        """diffusers' scheduler that draws as this model does by default, made anew.

        For another one: `sampler=EulerDiscreteScheduler.from_config(model.scheduler.config)` in a call.
        """
        import diffusers

        own = self.parts.defaults
        names = own.sampler, own.schedule, own.sampler_options, own.schedule_options
        fields = scheduler_fields(self.parts.process, self.parts.prediction_type, *names)
        return getattr(diffusers, fields["_class_name"]).from_config(fields)

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        raise AttributeError(
            f"a sampler belongs to a call here: model(prompt, sampler={type(scheduler).__name__}(...))"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the denoising network."""
        return next(self.parts.unet.parameters()).dtype

    def to(self, device: torch.device | torch.dtype | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks, and change their number format; the autoencoder stays fp32 where it is fp16.

        Args:
            device: where to; or a dtype, as torch's `to` takes either.
            dtype: float32, bfloat16 or float16.

        Raises:
            ValueError: a device that this machine does not have, or another dtype.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and dtype not in DTYPES.values():
            raise ValueError(f"dtype={dtype} is not supported; use {', '.join(f'torch.{name}' for name in DTYPES)}")
        place = self.device if device is None else device_for(device)
        parts = self.parts
        if dtype is not None:
            for network in (parts.text, parts.unet, parts.upscaler):
                if network is not None:
                    network.to(dtype=dtype)
            parts.autoencoder.to(dtype=torch.float32 if dtype == torch.float16 else dtype)
        self._offload.use(offload_for(self.offload, place), place)
        self.device = place
        self.engine.weights_changed()
        return self

    @property
    def offload(self) -> str:
        """How much of the model is on a GPU at once, one of `ldm.engine.names.OFFLOADS`."""
        return self._offload.kind

    def make_room(self) -> bool:
        """Leave only the network that is used on a GPU that is full. Returns whether that was possible."""
        if self.device.type == "cpu" or self.offload != NONE:
            return False
        _log.warning("%s is full; going on with one network at a time on it, as --offload model", self.device)
        self._offload.use(MODEL, self.device)
        return True

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        clip_skip: int = 0,
        prompt_syntax: str = "a1111",
        prompt_2: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
    ) -> tuple[Conditioning, Conditioning]:
        """Prompts and negative prompts as the denoising network reads them.

        `tokens` and `pooled` of what it gives are `prompt_embeds` and `pooled_prompt_embeds` of a call. Edits in time,
        `AND` and regions are not looked for: they are several prompts.

        Args:
            prompt: B texts, or one.
            negative_prompt: as many, or one for all.
            clip_skip: layers left out beyond the model's own habit.
            prompt_syntax: see `conditioning.prompt.syntax.MODES`.
            prompt_2: what SDXL's second text encoder reads in place of `prompt`.
            negative_prompt_2: likewise in place of `negative_prompt`.

        Returns:
            Conditioning of the prompts and of the negative prompts, both with tokens (B, L, D) of the same L.

        Raises:
            ValueError: a model without text encoder, or another number of negative prompts.
        """
        if self.parts.text is None:
            raise ValueError("this model has no text encoder, so there is no prompt to encode")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(prompts)
        prompts = _for_both(prompts, "prompt_2", prompt_2, self.parts.text)
        negatives = _each("negative_prompt", negative_prompt, count)
        negatives = _for_both(negatives, "negative_prompt_2", negative_prompt_2, self.parts.text)
        reader = reader_of(self.parts, self.engine, self.embeddings, prompt_syntax, clip_skip)
        chunks = max(reader.report(text).chunks for text in (*prompts, *negatives))
        with torch.inference_mode(False), torch.no_grad():
            return reader.encode(prompts, chunks), reader.encode(negatives, chunks, True)

    def encode(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> denoiser's latents (B, C, h, w), fp32; the twin of `decode`.

        Args:
            pictures: height and width are multiples of the latent format's factor.
            generator: a CPU generator that draws from the posterior; without one it is the posterior's mean.

        Raises:
            ValueError: height or width is no such multiple.
            NonFiniteError: the autoencoder gave NaN or infinity, in fp32 too.
            NotEnoughMemory: not even the smallest tiles fit.
        """
        parts = self.parts
        x = pictures.to(self.device, torch.float32) * 2 - 1
        autoencoder, factor = self.engine.view(parts.autoencoder), parts.latent_format.factor
        cells = x.shape[2] // factor, x.shape[3] // factor

        def moments(tiling: Tiling | None, x: Tensor) -> Tensor:
            if tiling is None or x.shape[2] % factor or x.shape[3] % factor:
                posterior = autoencoder.encode(x)
            else:
                posterior = encode_in_tiles(autoencoder, x, tiling, factor)
            return torch.cat([posterior.mean, posterior.logvar], 1)

        posterior = Gaussian(*self._finite("encoding", x, cells, moments).chunk(2, 1))
        z = posterior.mean
        if generator is not None:
            z = posterior.sample(torch.randn(z.shape, generator=generator).to(z))
        return parts.latent_format.to_model(z.float())

    def decode(self, latents: Tensor, upscale: bool = True) -> Tensor:
        """Denoiser's latents (B, C, h, w) -> pictures (B, 3, H, W) in [0, 1], fp32.

        Raises:
            NonFiniteError: the autoencoder gave NaN or infinity, in fp32 too.
            NotEnoughMemory: not even the smallest tiles fit.
        """
        parts = self.parts
        z = parts.latent_format.to_autoencoder(latents)
        autoencoder = self.engine.view(parts.autoencoder)
        upscaler = parts.upscaler if upscale else None

        def decode(decoding: Decoding, z: Tensor) -> Tensor:
            images = decoding.decode(z).float()
            return images if upscaler is None else upscaler(images.clamp(-1, 1)).float()

        scale = parts.latent_format.factor * (1 if upscaler is None else upscaler.config.factor)

        def pictures(tiling: Tiling | None, z: Tensor) -> Tensor:
            if tiling is None:
                return decode(autoencoder, z)
            return decode_in_tiles(autoencoder, z, tiling, scale, decode)

        images = self._finite("decoding", z, (z.shape[2], z.shape[3]), pictures)
        return images.div_(2).add_(0.5).clamp_(0, 1)  # in place: a large picture is there once

    def _finite(
        self, what: str, x: Tensor, cells: tuple[int, int], run: Callable[[Tiling | None, Tensor], Tensor]
    ) -> Tensor:
        """`coded_within_memory`; where a narrow type gave no numbers, once more in fp32, in which it stays."""
        autoencoder = self.parts.autoencoder
        dtype = next(autoencoder.parameters()).dtype
        coded = coded_within_memory(self, what, x.to(dtype), cells, run)
        if dtype != torch.float32 and not is_finite(coded):
            narrow = str(dtype).removeprefix("torch.")
            _log.warning("%s in %s gave numbers that are not finite; going on in float32", what, narrow)
            with torch.inference_mode(False), torch.no_grad():
                autoencoder.to(torch.float32)
            coded = coded_within_memory(self, what, x.float(), cells, run)
        check_finite(coded, "autoencoder")
        return coded


def _each(name: str, texts: str | Sequence[str], count: int) -> list[str]:
    each = [texts] * count if isinstance(texts, str) else list(texts)
    if len(each) != count:
        raise ValueError(f"{len(each)} of {name} for {count} prompts; give one, or one each")
    return each


def _for_both(first: list[str], name: str, second: str | Sequence[str] | None, text: ClipTextEncoder) -> list[str]:
    """Texts that both towers of a pair read, each its own where there are second ones."""
    if second is None:
        return first
    if len(text.towers) < 2:
        raise ValueError(f"{name} is for models with two text encoders, as SDXL; leave it out")
    return [two_texts(*pair) for pair in zip(first, _each(name, second, len(first)), strict=True)]


def _in_words(count: int) -> str:
    """12345678 -> 12.3M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count}"
