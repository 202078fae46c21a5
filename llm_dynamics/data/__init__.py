"""The data of a run: corpora, tokenizers, rows, mixture, injection and the plan."""
