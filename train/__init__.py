"""Training: data, objective, state, step, loop."""
