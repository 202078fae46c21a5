"""Rows of results.json: a number, its interval, what it is, and what to keep in mind.

A row has both ends of its interval or none, and None for what is not finite: JSON has no infinity,
and a reader of one end would take it for two. `note` keeps the other end and says why.
"""

import math
from typing import Any

import numpy as np

from llm_dynamics.facts.statistics import Estimate, Interval

Row = dict[str, Any]

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


def interval_row(
    name: str,
    found: Interval,
    unit: str,
    n: int,
    definition: str,
    note: str = "",
    missing: str | None = None,
) -> Row:
    """A row from a value and its ends, of one point.

    Args:
      name: of the row.
      found: NaN where something does not exist, infinite where it is never reached.
      unit: of the value.
      n: facts of the smallest arm involved.
      definition: in words.
      note: what to keep in mind; without an interval, why there is none.
      missing: why a value that is not finite is not; None = in general words.
    """
    value, low, high = (float(np.ravel(end)[0]) for end in found)
    notes = [note]
    if not math.isfinite(value):
        general = "0 divided by 0" if math.isnan(value) else "infinite"
        notes.append(general if missing is None else missing)
        value = low = high = None
    elif not (math.isfinite(low) and math.isfinite(high)):
        notes.append(_ends(low, high, bool(note)))
        low = high = None
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "unit": unit,
        "n": int(n),
        "definition": definition,
        "note": "; ".join(filter(None, notes)),
    }


def exact(value: float) -> Interval:
    """A value without an interval."""
    return Interval(*(np.array([x]) for x in (value, math.nan, math.nan)))


def verdict(row: Row, null: float = 0.0) -> str:
    """What a row shows of its contrast with `null`: "above", "below" or "not shown"."""
    if row["low"] is None or row["low"] <= null <= row["high"]:
        return "not shown"
    return "above" if row["low"] > null else "below"


def note_not_shown(row: Row, null: float = 0.0) -> Row:
    """The row, its note saying so where the interval includes `null`."""
    if row["low"] is None or verdict(row, null) != "not shown":
        return row
    words = f"not shown: the interval includes {null:g}"
    return {**row, "note": "; ".join(filter(None, (row["note"], words)))}


def doubt(denominator: Estimate) -> str:
    """Says when a ratio has a denominator that may be 0; "" when it is shown to be positive."""
    if denominator.n >= 2 and denominator.interval().low[0] > 0:
        return ""
    return f"{UNCLEAR}, so it means little"


def _ends(low: float, high: float, explained: bool) -> str:
    """What is known of an interval that has not two finite ends."""
    if math.isnan(low) and math.isnan(high):
        return "" if explained else "no interval"
    if math.isfinite(low) and high == math.inf:
        return f"the interval starts at {low:.4g} and has no upper end"
    if math.isfinite(high) and low == -math.inf:
        return f"the interval ends at {high:.4g} and has no lower end"
    return "no interval: some resamples have no finite value"
