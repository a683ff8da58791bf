"""The objective of distillation: a student learns to draw in few unguided steps what its teacher draws in many."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser, target, to_x0_eps
from ldm.engine.placement import send
from ldm.guidance.projected import check_apg, project
from ldm.naming import look_up
from ldm.networks.unet import UNet
from ldm.process import Process, per_sample
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.distillation import METHODS, Answer
from ldm.training.diffusion.noising import draw_normal, draw_uniform
from ldm.training.diffusion.times import stratify
from ldm.training.objectives.base import Batch
from ldm.training.objectives.latent_batches import LatentBatches
from ldm.training.objectives.latent_diffusion import network_output


@dataclass(frozen=True)
class DistillationConfig:
    """What the student learns.

    Attributes:
        method: `guidance` (the teacher's guided prediction in one pass), `model_guidance` (the data, and the teacher's
            guidance on top), `progressive` (a step of the student is several of the teacher) or `consistency` (from
            every point of the teacher's path to the end of its phase, of which there is one a step). The last two
            learn guidance at the same time.
        guidance_scale: of the teacher, which becomes the student's own; 1 for a teacher that needs no guidance.
        teacher_steps: of the teacher's DDIM on the trailing grid, a multiple of `student_steps`; only for `progressive`
            and `consistency`.
        student_steps: of the student, of previews, and the default of the exported model.
        apg_eta: how much of guidance's part along the prediction is kept, which is what saturates colours; 1 is
            classifier-free guidance, 0 takes it out, see `ldm.guidance.AdaptiveProjectedGuidance`.
        huber: c of the pseudo-Huber loss sqrt(d^2 + c^2) - c (Song and Dhariwal 2024, section 3.3), element by
            element; 0 takes the squared error.
    """

    method: str = "progressive"
    guidance_scale: float = 4.0
    teacher_steps: int = 16
    student_steps: int = 4
    apg_eta: float = 1.0
    huber: float = 0.0

    def __post_init__(self) -> None:
        look_up("distillation.method", self.method, METHODS)
        for name in ("teacher_steps", "student_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"distillation.{name}={getattr(self, name)} must be at least 1")
        check_apg(self.apg_eta, rescale=0.0, momentum=0.0)
        if self.huber < 0:
            raise ValueError(f"distillation.huber={self.huber} is negative; use 0 or more, usually 0.001")


class DistillationObjective:
    """Trains a student on the answers of its teacher.

    Errors are taken between velocities v = alpha eps - sigma x0 (Salimans and Ho 2022, section 4, "SNR + 1"), whatever
    the networks predict, so that students of every prediction type learn the same, at alpha = 0 too.

    Args:
        teacher: frozen; may share its weights with the student.
        student: its trainable parameters are fp32.
        batches: what the data holds for the student.
        process, prediction_type: of both.
        config: what is learned, and how.
        read_by_teacher: what the data holds for the teacher, where it reads captions with other networks than the
            student; `batches` by default.
        zeros_for_empty: the teacher's empty prompt is zeros, see `ModelParts`.
        batch_size: samples of an optimizer step in the whole training, over which times are spread evenly.
        seed: of the training.

    Raises:
        ValueError: the steps do not fit each other; names the fields.
    """

    def __init__(
        self,
        teacher: UNet,
        student: UNet,
        batches: LatentBatches,
        process: Process,
        prediction_type: str,
        config: DistillationConfig,
        read_by_teacher: LatentBatches | None = None,
        zeros_for_empty: bool = False,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        trained = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_modules: dict[str, nn.Module] = {"unet": trained}
        self._teacher = teacher.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._batches, self._read_by_teacher = batches, read_by_teacher or batches
        self._process, self._prediction_type = process, prediction_type
        self._method = METHODS[config.method](process, config.teacher_steps, config.student_steps)
        self._config, self._zeros_for_empty = config, zeros_for_empty
        self._batch_size, self._seed = batch_size, seed

    def loss(
        self, module_name: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        """Mean distance between the velocities of student and target."""
        found, wanted = self._velocities(
            self.trained_modules[module_name],
            batch,
            generators,
            lambda draws: stratify(batch["index"], draws, self._batch_size, self._seed),
        )
        squares, c = (found - wanted).square(), self._config.huber
        loss = ((squares + c**2).sqrt() - c if c else squares).mean()
        return {"loss": loss, "squared": squares.mean().detach()}

    def errors(
        self, batch: Batch, modules: dict[str, nn.Module], generators: list[torch.Generator], quantiles: Tensor
    ) -> Tensor:
        """See `ldm.training.objectives.base.Validated`; the axis of times is that of the method."""
        found, wanted = self._velocities(modules["unet"], batch, generators, lambda draws: quantiles)
        return (found - wanted).square().mean((1, 2, 3))

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Pictures for the batch's captions or labels, in the student's steps; real ones."""
        n, device = len(batch["index"]), next(modules["unet"].parameters()).device
        conditioning = self._batches.conditioning(batch, [False] * n, [generator_for(0, i) for i in range(n)], device)
        denoise = NetworkDenoiser(modules["unet"], self._process, self._prediction_type, conditioning)
        pictures = self._batches.draw(batch, denoise, self._config.student_steps, device)
        return {"pictures": pictures, "real": self._batches.real(batch, pictures)}

    def _velocities(
        self,
        student: nn.Module,
        batch: Batch,
        generators: list[torch.Generator],
        quantiles_of: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The velocities (B, C, h, w) of the student and of its target; `quantiles_of` draws, uniform, one a sample."""
        process, method = self._process, self._method
        device = next(student.parameters()).device
        latent = self._batches.latent(batch, generators, device)
        noise = send(draw_normal(latent.shape[1:], generators), device)
        quantiles = quantiles_of(draw_uniform(generators))
        conditioning = theirs = self._batches.conditioning(batch, [False] * len(latent), generators, device)
        if self._read_by_teacher is not self._batches:
            theirs = self._read_by_teacher.conditioning(batch, [False] * len(latent), generators, device)
        empty = self._empty(batch, generators, device)
        time = method.times(quantiles)
        x = process.add_noise(latent, noise, time)
        learner = partial(self._answer, student, conditioning)
        found = self._velocity(learner(x, time), time)
        data = (latent, noise) if method.from_data else None
        with torch.no_grad():
            wanted = method.target(x, quantiles, partial(self._guided, theirs, empty, data), learner)
        return found, self._velocity(wanted, time)

    def _velocity(self, answer: Answer, time: Tensor) -> Tensor:
        return target(*answer, *self._process.levels(time), "v_prediction")

    def _answer(self, network: nn.Module, conditioning: Conditioning, x: Tensor, time: Tensor) -> Answer:
        output = network_output(network, self._process, x, time, conditioning)
        return to_x0_eps(output, x, *self._process.levels(time), self._prediction_type)

    def _empty(self, batch: Batch, generators: list[torch.Generator], device: torch.device) -> Conditioning | None:
        """The teacher's empty prompt of each sample, if it is guided away from it."""
        if self._config.guidance_scale == 1:
            return None
        empty = self._read_by_teacher.conditioning(batch, [True] * len(batch["index"]), generators, device)
        if self._zeros_for_empty and empty.tokens is not None and empty.pooled is not None:
            empty = replace(empty, tokens=torch.zeros_like(empty.tokens), pooled=torch.zeros_like(empty.pooled))
        return empty

    def _guided(
        self, conditioning: Conditioning, empty: Conditioning | None, data: Answer | None, x: Tensor, time: Tensor
    ) -> Answer:
        """The teacher's answer under guidance, as the classes of `ldm.guidance` give it.

        With `data`, that is guided in place of the teacher's own answer to the prompt.
        """
        teacher, scale = self._teacher.to(x.device), self._config.guidance_scale
        if empty is None:
            return data or self._answer(teacher, conditioning, x, time)
        both = Conditioning.cat([empty, conditioning])
        without, within = zip(
            *(part.chunk(2) for part in self._answer(teacher, both, torch.cat([x, x]), torch.cat([time, time]))),
            strict=True,
        )
        to_x0, to_eps = (c - u for c, u in zip(within, without, strict=True))
        if self._config.apg_eta != 1:
            alpha, sigma = (per_sample(level, x) for level in self._process.levels(time))
            saturating = (1 - self._config.apg_eta) * project(to_x0, within[0])[0]
            to_x0, to_eps = to_x0 - saturating, to_eps + alpha / sigma * saturating
        x0, eps = data or within
        return x0 + (scale - 1) * to_x0, eps + (scale - 1) * to_eps
