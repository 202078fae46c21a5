"""Rows of results from estimates over facts, and what is said where there is none."""

import math

from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.results import Row, exact, interval_row

NO_CONTROL = "no never-injected control in this log"
UNCLEAR = "the gain it is a share of is not shown to be positive"


def make_row(
    name: str,
    estimate: Estimate | None,
    unit: str,
    definition: str,
    note: str = "",
    missing: str | None = None,
) -> Row:
    """A row from an estimate of one point; None where there is none, and `note` says why."""
    if estimate is None:
        return interval_row(name, exact(math.nan), unit, 0, definition, note, missing="")
    if estimate.n < 2:
        note = "; ".join(filter(None, (note, "one fact: no interval")))
    return interval_row(name, estimate.interval(), unit, estimate.n, definition, note, missing)


def doubt(denominator: Estimate) -> str:
    """Says when a ratio has a denominator that may be 0; "" when it is shown to be positive."""
    if denominator.n >= 2 and denominator.interval().low[0] > 0:
        return ""
    return f"{UNCLEAR}, so it means little"
