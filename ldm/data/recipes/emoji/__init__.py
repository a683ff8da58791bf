"""The emoji data set: five openly licensed icon styles, captioned, and scenes composed from them."""
