"""How good a model is: a judge trained on real pictures, Frechet distance, fidelity of autoencoder and upscaler."""
