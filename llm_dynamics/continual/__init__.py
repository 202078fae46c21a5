"""Continual pre-training: what an update forgets, what it learns, and what it costs."""
