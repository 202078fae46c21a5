"""Questions that published packages carry, for evaluation only: nothing here is trained on."""

from llm_dynamics.suites.items import Item, Suite
from llm_dynamics.suites.registry import Entry, entry, load, names

__all__ = ["Entry", "Item", "Suite", "entry", "load", "names"]
