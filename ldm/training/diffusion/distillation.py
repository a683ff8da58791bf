"""What a student of few steps has to answer, for every prediction type.

An answer is a pair (x0, eps) with x = alpha x0 + sigma eps, whatever the network's output means. So the formulas hold
for epsilon-, v- and x0-prediction alike, and at alpha = 0 (zero terminal SNR), where x is the noise. A step is DDIM's,
`jump`; its inverse, `leading_to`, turns a place on the teacher's path into the answer that takes the student there in
one step. The progressive and the consistency method have the same optimum: n steps of the student end where n k steps
of the teacher end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.process import Process, per_sample
from ldm.schedules import make_grid
from ldm.training.diffusion.times import TIME_SAMPLING

Answer = tuple[Tensor, Tensor]
"""(x0, eps), both `(B, C, h, w)`."""
Predict = Callable[[Tensor, Tensor], Answer]
"""`(x (B, C, h, w), times (B,)) -> (x0, eps)`."""


class Method(Protocol):
    """How a student learns. Quantiles are float64 `(B,)` in (0, 1), from no noise to pure noise."""

    @property
    def from_data(self) -> bool:
        """Whether guidance is added to the picture and noise that x was made of, in place of the teacher's answer."""

    def times(self, quantiles: Tensor) -> Tensor:
        """The times `(B,)` at which the student is trained."""

    def target(self, x: Tensor, quantiles: Tensor, teacher: Predict, student: Predict) -> Answer:
        """What the student should answer for x `(B, C, h, w)` at these times; without gradients."""


@dataclass(frozen=True)
class Grids:
    """The trailing grids of a teacher's steps and of a student's, which visits every `ratio`-th time of the teacher.

    Attributes:
        teacher: descending times `(N + 1,)`.
        student: `(n + 1,)`.
    """

    process: Process
    teacher: Tensor
    student: Tensor

    @property
    def ratio(self) -> int:
        """k = N / n, the teacher's steps in one of the student's."""
        return (len(self.teacher) - 1) // (len(self.student) - 1)


@dataclass(frozen=True)
class GuidanceDistillation:
    """A pass of the student is the guided prediction of the teacher, at every time (Meng et al. 2023, section 3.1).

    From data, the teacher gives the guidance alone and the pictures give what is guided, so the student outgrows its
    teacher: the mean of x0 + (w - 1) (x0_cond - x0_empty) over the data is what a teacher without errors would answer
    (Tang et al. 2025, "Diffusion models without classifier-free guidance", equation 8, with a frozen teacher).
    """

    process: Process
    from_data: bool = False

    def times(self, quantiles: Tensor) -> Tensor:
        """See `Method`."""
        return TIME_SAMPLING["uniform"](quantiles, self.process, 0.0, 1.0)

    def target(self, x: Tensor, quantiles: Tensor, teacher: Predict, student: Predict) -> Answer:
        """See `Method`."""
        return teacher(x, self.times(quantiles))


@dataclass(frozen=True)
class ProgressiveDistillation:
    """One step of the student is k steps of the teacher (Salimans and Ho 2022, algorithm 2, with k = 2 there)."""

    grids: Grids
    from_data: bool = False

    def times(self, quantiles: Tensor) -> Tensor:
        """See `Method`; those of the student's grid."""
        return self.grids.student[_place(quantiles, self.grids.student)]

    def target(self, x: Tensor, quantiles: Tensor, teacher: Predict, student: Predict) -> Answer:
        """See `Method`."""
        process, grids = self.grids.process, self.grids
        place = _place(quantiles, grids.student)
        landed = x
        for number in range(grids.ratio):
            step = place * grids.ratio + number
            landed = jump(teacher(landed, grids.teacher[step]), process, grids.teacher[step + 1])
        return leading_to(landed, grids.student[place + 1], x, grids.student[place], process)


@dataclass(frozen=True)
class ConsistencyDistillation:
    """From every point of the teacher's path, the student jumps to the end of the phase that the point lies in.

    Consistency distillation (Song et al. 2023, algorithm 2; on latents Luo et al. 2023, "LCM") in phases (Wang et al.
    2024, "PCM"), which are the student's steps: f(x_t) = f(x_t'), where x_t' is one step of the teacher on from x_t and
    f jumps to the phase's end s. f is DDIM's step, so f(x_s) = x_s whatever the network answers. The student in the
    target has no gradient and is no average (Song and Dhariwal 2024, section 3.2).
    """

    grids: Grids
    from_data: bool = False

    def times(self, quantiles: Tensor) -> Tensor:
        """See `Method`; those of the teacher's grid."""
        return self.grids.teacher[_place(quantiles, self.grids.teacher)]

    def target(self, x: Tensor, quantiles: Tensor, teacher: Predict, student: Predict) -> Answer:
        """See `Method`."""
        process, grids = self.grids.process, self.grids
        place = _place(quantiles, grids.teacher)
        now, then, end = grids.teacher[place], grids.teacher[place + 1], grids.student[place // grids.ratio + 1]
        moved = jump(teacher(x, now), process, then)
        there = (then == end).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        landed = torch.where(there, moved, jump(student(moved, then), process, end))
        return leading_to(landed, end, x, now, process)


def make_grids(process: Process, teacher_steps: int, student_steps: int) -> Grids:
    """The grids of so many steps.

    Raises:
        ValueError: the student's times are none of the teacher's, or there are more steps than training times.
    """
    teacher, student = (make_grid("trailing", process, steps) for steps in (teacher_steps, student_steps))
    if teacher_steps % student_steps or not torch.equal(teacher[:: teacher_steps // student_steps], student):
        near = student_steps * max(1, round(teacher_steps / student_steps) - (teacher_steps % student_steps == 0))
        raise ValueError(
            f"distillation.teacher_steps={teacher_steps} does not visit the times of student_steps={student_steps}; "
            f"use another multiple, e.g. {near}"
        )
    return Grids(process, teacher, student)


METHODS: dict[str, Callable[[Process, int, int], Method]] = {
    "guidance": lambda process, teacher, student: GuidanceDistillation(process),
    "model_guidance": lambda process, teacher, student: GuidanceDistillation(process, from_data=True),
    "progressive": lambda process, teacher, student: ProgressiveDistillation(make_grids(process, teacher, student)),
    "consistency": lambda process, teacher, student: ConsistencyDistillation(make_grids(process, teacher, student)),
}
"""Name -> the method for a process, a teacher's steps and a student's."""


def jump(answer: Answer, process: Process, end: Tensor) -> Tensor:
    """alpha x0 + sigma eps at times `end` `(B,)`: a step of DDIM (Song et al. 2021, eq. 12 with eta = 0)."""
    x0, eps = answer
    alpha, sigma = process.levels(end)
    return per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * eps


def leading_to(landed: Tensor, end: Tensor, x: Tensor, start: Tensor, process: Process) -> Answer:
    """The answer for x at times `start` whose `jump` to times `end` is `landed` (Salimans and Ho 2022, appendix G).

    With x = alpha x0 + sigma eps and landed = alpha' x0 + sigma' eps, x0 = (landed - r x) / (alpha' - r alpha) for r =
    sigma' / sigma. There is noise at `start` and less at `end`, so nothing is divided by zero, alpha = 0 included.
    """
    (alpha, sigma), (alpha_end, sigma_end) = process.levels(start), process.levels(end)
    ratio = sigma_end / sigma
    x0 = (landed - per_sample(ratio, x) * x) / per_sample(alpha_end - ratio * alpha, x)
    return x0, (x - per_sample(alpha, x) * x0) / per_sample(sigma, x)


def _place(quantiles: Tensor, grid: Tensor) -> Tensor:
    """The number of the grid's step, counted from pure noise, that each quantile falls into."""
    steps = len(grid) - 1
    return ((1 - quantiles) * steps).long().clamp(0, steps - 1)
