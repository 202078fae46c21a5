"""The transformer: configuration, decoder, loss, and how it is laid out on a mesh."""
