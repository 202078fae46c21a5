"""The TFDS builder of shakespeare."""
