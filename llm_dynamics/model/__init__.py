"""The transformer: configuration, decoder, loss, and how it is laid out on a mesh."""

from llm_dynamics.model.build import logits

__all__ = ["logits"]
