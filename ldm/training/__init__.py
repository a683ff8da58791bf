"""Training of all networks: one loop, with stages, objectives, checkpoints and reports."""
