"""Our checkpoints under lm-evaluation-harness: an adapter, local tasks, rows of results."""
