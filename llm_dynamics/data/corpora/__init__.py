"""The corpora that can be fetched by name, as TFDS builders."""
