"""Engines run the networks: eagerly, compiled or by other libraries, on which device and in which type."""
