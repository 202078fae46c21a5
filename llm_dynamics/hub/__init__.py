"""Checkpoints of the Hugging Face hub, in and out."""

from llm_dynamics.hub.reading import load
from llm_dynamics.hub.writing import export

__all__ = ["export", "load"]
