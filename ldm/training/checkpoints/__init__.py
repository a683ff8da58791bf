"""Checkpoints of a training: written whole, verified, and free of pickle."""
