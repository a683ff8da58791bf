"""Single-file checkpoints of the Stable Diffusion families: recognised, opened, written."""
