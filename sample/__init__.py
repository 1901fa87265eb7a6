"""From noise to latents, to images, to numbers."""
