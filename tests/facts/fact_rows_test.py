"""Rows of estimates over facts: without an interval for one fact, and without any estimate."""

import numpy as np

from llm_dynamics.facts import rows
from llm_dynamics.facts.statistics import Estimate


def test_what_there_is_no_interval_for():
    alone = rows.make_row("a", Estimate(np.ones((5, 1)), {"one": 1}), "1", "of a", "slow")
    assert alone["note"] == "slow; one fact: no interval" and alone["value"] == 1
    none = rows.make_row("a", None, "1", "of a", rows.NO_CONTROL)
    assert none["n"] == 0 and none["note"] == rows.NO_CONTROL and none["value"] is None
