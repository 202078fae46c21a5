"""Acquisition and forgetting of facts (Chang et al. 2024)."""
