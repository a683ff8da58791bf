"""diffusers' `scheduler_config.json` <-> our process, prediction type, sampler and schedule with their options."""

from ldm.families.parts import SchedulerSettings
from ldm.io.folder.scheduler.read import scheduler_settings
from ldm.io.folder.scheduler.write import scheduler_fields
from ldm.schedules.diffusers_grids import grid_options, process_for

__all__ = ["SchedulerSettings", "grid_options", "process_for", "scheduler_fields", "scheduler_settings"]
