"""The super-resolution network that some models carry: it enlarges what their autoencoder decodes."""
