"""Rows of results: both ends or none, and in words what is not finite."""

import json
import math

import numpy as np
import pytest

from llm_dynamics import results

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("found", "kept", "note"),
    [
        ((1.0, 0.5, 2.0), (1.0, 0.5, 2.0), ""),
        ((1.0, 0.5, INF), (1.0, None, None), "the interval starts at 0.5 and has no upper end"),
        ((1.0, -INF, 2.0), (1.0, None, None), "the interval ends at 2 and has no lower end"),
        ((1.0, NAN, 2.0), (1.0, None, None), "no interval: some resamples have no finite value"),
        ((1.0, NAN, NAN), (1.0, None, None), "no interval"),
        ((INF, 3.0, INF), (None, None, None), "infinite"),
        ((NAN, NAN, NAN), (None, None, None), "0 divided by 0"),
    ],
)
def test_ends(found, kept, note):
    row = results.interval_row("a/b", results.Interval(*np.array(found)[:, None]), "1", 9, "of a")
    assert (row["value"], row["low"], row["high"]) == kept
    assert row["note"] == note
    json.dumps(row, allow_nan=False)


def test_what_is_said_is_kept():
    row = results.interval_row("a", results.exact(2.0), "1", 9, "of a", "exact")
    assert row["note"] == "exact"
    row = results.interval_row("a", results.exact(INF), "step", 9, "of a", "slow", "never reached")
    assert row["note"] == "slow; never reached"


@pytest.mark.parametrize(
    ("ends", "null", "expected"),
    [
        ((0.1, 0.3), 0.0, "above"),
        ((-0.3, -0.1), 0.0, "below"),
        ((-0.1, 0.1), 0.0, "not shown"),
        ((None, None), 0.0, "not shown"),
        ((0.8, 1.2), 1.0, "not shown"),
    ],
)
def test_verdict(ends, null, expected):
    row = {"low": ends[0], "high": ends[1], "note": "so"}
    assert results.verdict(row, null) == expected
    said = results.note_not_shown(row, null)["note"]
    include = expected == "not shown" and ends[0] is not None
    assert said == (f"so; not shown: the interval includes {null:g}" if include else "so")
