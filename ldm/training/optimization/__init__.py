"""Optimizers, learning rates, weight averages and mixed precision."""
