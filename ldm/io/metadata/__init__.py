"""Metadata of pictures: PNG texts, and recipes of other tools."""
