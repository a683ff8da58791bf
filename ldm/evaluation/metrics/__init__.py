"""Metrics of any model and any pictures: Frechet distance, fidelity of autoencoder and upscaler."""
