"""The emoji data set: eight openly licensed icon styles, captioned, and scenes composed from them."""
