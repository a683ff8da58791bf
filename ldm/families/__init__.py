"""Families of models: what Stable Diffusion 1, 2, XL and others consist of, and their defaults."""
