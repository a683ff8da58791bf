"""Adapters: small additions to the weights of a finished model."""
