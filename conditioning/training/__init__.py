"""Training of text encoders: a small CLIP, and image tokens."""
