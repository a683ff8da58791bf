"""Autoencoders between pictures and latents: models, losses, latent formats. Knows nothing of `ldm`."""
