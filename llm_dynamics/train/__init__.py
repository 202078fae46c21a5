"""State, step, checkpoints, metrics and the training loop."""
