"""Linear operators: what a measurement sees of a picture, for restoration with a known damage."""
