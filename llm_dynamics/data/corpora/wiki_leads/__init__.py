"""The TFDS builder of wiki_leads."""
