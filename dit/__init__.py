"""The network, its latent space, and its weights."""
