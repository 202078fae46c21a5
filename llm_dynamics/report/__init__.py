"""Figures and the self-contained report page, drawn from a run folder."""
