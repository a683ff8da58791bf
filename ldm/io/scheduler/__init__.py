"""diffusers' `scheduler_config.json` <-> our process, prediction type, sampler and schedule with their options."""

from ldm.io.scheduler.laws import grid_options, process_for
from ldm.io.scheduler.read import SchedulerSettings, scheduler_settings
from ldm.io.scheduler.write import scheduler_fields

__all__ = ["SchedulerSettings", "grid_options", "process_for", "scheduler_fields", "scheduler_settings"]
