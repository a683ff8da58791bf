"""Restoration measured: classical filters at their best settings, de-biased where 8 bits clip, beside models."""
