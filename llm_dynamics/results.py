"""Rows of results.json: a number, its interval, what it is, and what to keep in mind.

A row has both ends of its interval or none, and None for what is not finite: JSON has no infinity,
and a reader of one end would take it for two. `note` keeps the other end and says why.
"""

import math
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]


class Interval(NamedTuple):
    """A value and its interval: arrays over T points, NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def exact(value: float) -> Interval:
    """A value without an interval."""
    return Interval(*(np.array([x]) for x in (value, math.nan, math.nan)))


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
      n: independent units that it rests on: facts of the smallest arm involved, runs.
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


def _ends(low: float, high: float, explained: bool) -> str:
    """What is known of an interval that has not two finite ends."""
    if math.isnan(low) and math.isnan(high):
        return "" if explained else "no interval"
    if math.isfinite(low) and high == math.inf:
        return f"the interval starts at {low:.4g} and has no upper end"
    if math.isfinite(high) and low == -math.inf:
        return f"the interval ends at {high:.4g} and has no lower end"
    return "no interval: some resamples have no finite value"
