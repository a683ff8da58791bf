"""The stages of training: settings of each, and what is built from them."""
