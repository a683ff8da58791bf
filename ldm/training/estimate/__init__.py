"""Estimates of a training's memory, operations, time and disk space, before it starts."""
