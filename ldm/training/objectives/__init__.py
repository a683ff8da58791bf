"""Objectives: the loss of each kind of network."""
