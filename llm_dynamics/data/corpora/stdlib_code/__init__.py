"""The TFDS builder of stdlib_code."""
