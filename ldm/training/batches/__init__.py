"""Batches of a training: the order of samples, loading and prefetching."""
