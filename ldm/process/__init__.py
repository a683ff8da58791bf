"""Processes: how pictures turn into noise, and the network's time input."""

from ldm.process.base import Process, per_sample
from ldm.process.discrete_vp import BETA_SCHEDULES, DiscreteVP
from ldm.process.edm import EDM
from ldm.process.flow import Flow

__all__ = ["BETA_SCHEDULES", "EDM", "DiscreteVP", "Flow", "Process", "per_sample"]
