"""Small changes to the weights of a finished model: what they add, how they are merged, how prompts name them."""
