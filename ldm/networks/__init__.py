"""Denoising networks and the upscaler."""
