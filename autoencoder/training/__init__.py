"""Training of autoencoders: losses, discriminator and perceptual distance."""
