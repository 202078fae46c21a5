"""The TFDS builder of gcide."""
