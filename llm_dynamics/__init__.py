"""Pretraining dynamics of language models: facts, continual training, growth and skills."""

__version__ = "0.1.0"
