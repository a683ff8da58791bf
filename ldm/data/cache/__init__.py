"""Caches of what frozen networks compute from pictures and captions."""
