"""The TFDS builder of wordnet_glosses."""
