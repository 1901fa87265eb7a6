"""Few-step students of a trained network."""
