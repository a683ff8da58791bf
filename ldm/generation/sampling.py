"""How a picture is sampled, with every name resolved and every option filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ldm.generation.sampler_names import resolve
from ldm.io.folder.scheduler import grid_options, process_for
from ldm.naming import OptionValue, check_options
from ldm.process import Process
from ldm.samplers import Sampler, make_sampler
from ldm.schedules import WRITTEN, make_grid

if TYPE_CHECKING:
    from ldm.families.parts import Defaults


@dataclass(frozen=True)
class Sampling:
    """A sampler and a schedule with their options.

    Attributes:
        sampler, schedule: keys of `ldm.samplers.SAMPLERS` and `ldm.schedules.SCHEDULES`.
        sampler_options, schedule_options: their own; what is missing is their default.
        own_sampler: the model's default one, see `ldm.io.folder.scheduler.process_for`.
        function: the sampler itself, where the caller brought one; then `sampler` is only what it is called.
    """

    sampler: str
    schedule: str
    sampler_options: Mapping[str, OptionValue]
    schedule_options: Mapping[str, OptionValue]
    own_sampler: str
    function: Sampler | None = None

    def steps(self, process: Process, requested: int | None, default: int) -> int:
        """The number of steps: as requested, else as many as a written schedule has, else `default`."""
        values = self.schedule_options.get("values") if self.schedule in WRITTEN else None
        if requested is None and isinstance(values, list | tuple):
            return len(WRITTEN[self.schedule](process, values)) - 1
        return default if requested is None else requested

    def process(self, process: Process) -> Process:
        """The model's process as this sampler ends it."""
        return process_for(self.sampler, process, self.own_sampler)

    def grid(self, process: Process, n: int) -> Tensor:
        """The grid of n steps on `self.process(...)`.

        Raises:
            ValueError: as `ldm.schedules.make_grid`.
        """
        return make_grid(self.schedule, process, n, self.schedule_options)

    def make(self) -> Sampler:
        """The sampler with its options filled in.

        Raises:
            ValueError: as `ldm.samplers.make_sampler`.
        """
        if self.function is None:
            return make_sampler(self.sampler, self.sampler_options)
        check_options(f"sampler {self.sampler!r}", self.function, self.sampler_options)
        return partial(self.function, **self.sampler_options)


def sampling_for(
    defaults: "Defaults",
    sampler: str | None = None,
    schedule: str | None = None,
    sampler_options: Mapping[str, OptionValue] | None = None,
    schedule_options: Mapping[str, OptionValue] | None = None,
) -> Sampling:
    """The settings of a request, completed from the model's defaults.

    The options of the model's scheduler file hold for the sampler that it names, and those of its schedule for that
    sampler with that schedule, whether they were named again or left out; so a recipe, which names both, repeats its
    picture. Options of an alias (`dpmpp_2m_sde_heun`) come before them, and the caller's before all.

    Args:
        defaults: of the model.
        sampler: a name of any tool, see `ldm.generation.sampler_names.resolve`; None is the model's default.
        schedule: likewise.
        sampler_options: options of the sampler, e.g. `{"eta": 0.5}`.
        schedule_options: options of the schedule, e.g. `{"rho": 5.0}`.

    Raises:
        ValueError: an unknown name; offers the nearest. Unknown options are refused by `grid` and `make`.
    """
    names = resolve(sampler, schedule)
    sampler_name, schedule_name = names.sampler or defaults.sampler, names.schedule or defaults.schedule
    own = sampler_name == defaults.sampler
    return Sampling(
        sampler=sampler_name,
        schedule=schedule_name,
        sampler_options={
            **(defaults.sampler_options if own else {}),
            **names.sampler_options,
            **(sampler_options or {}),
        },
        schedule_options={
            **grid_options(sampler_name, schedule_name),
            **(defaults.schedule_options if own and schedule_name == defaults.schedule else {}),
            **(schedule_options or {}),
        },
        own_sampler=defaults.sampler,
    )


def options_beyond(sampling: Sampling, defaults: "Defaults") -> tuple[dict[str, OptionValue], dict[str, OptionValue]]:
    """The options of sampler and schedule that their names alone do not bring back: what a recipe must write down."""
    named = sampling_for(defaults, sampling.sampler, sampling.schedule)
    pairs = (
        (sampling.sampler_options, named.sampler_options),
        (sampling.schedule_options, named.schedule_options),
    )
    first, second = (
        {name: value for name, value in own.items() if name not in known or known[name] != value}
        for own, known in pairs
    )
    return first, second
