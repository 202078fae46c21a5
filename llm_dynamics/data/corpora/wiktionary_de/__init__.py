"""The TFDS builder of wiktionary_de."""
