"""Growth: a trained model becomes a larger one by a map over its parameters (Wang et al. 2023)."""
