"""Questions that published packages carry, for evaluation only: nothing here is trained on."""

from llm_dynamics.suites.items import Item, Suite
from llm_dynamics.suites.registry import load, names

__all__ = ["Item", "Suite", "load", "names"]
