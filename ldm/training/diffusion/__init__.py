"""The settings, times, noise and loss weights that a denoiser is trained with."""
