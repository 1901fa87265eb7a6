"""Training, with its objective, state, step, loop and checkpoints."""
