"""Studies: one readable file each."""
