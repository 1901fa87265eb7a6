"""Training: objective, state, step, loop and checkpoints."""
