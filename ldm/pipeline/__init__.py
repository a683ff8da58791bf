"""The face of a model in Python: `LatentDiffusion`, its call and its tasks."""
