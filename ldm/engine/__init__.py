"""Engines run the networks: eagerly or compiled, on which device and in which type."""
