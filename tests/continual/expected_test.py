"""Verdicts on what is expected of arms, from arms whose losses are known."""

from pathlib import Path

import numpy as np
import pytest

from llm_dynamics.continual import expected as lib
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.results import exact, interval_row

_WIGGLE = (0.0, 0.002, -0.002)  # between seeds


def _log(old, new, steps=4):
    losses_SxZ = np.array([[9.0, 9.0], [old, new]])
    return StageLog(Path("x"), np.array([0, steps]), losses_SxZ, np.full(steps, 0.1), 10, {})


def _arm(old, new, fresh=False, steps=4, seeds=3):
    """An arm that starts at losses of 4 and 8 and ends at those given."""
    runs = {s: _log(old + _WIGGLE[s], new + 2 * _WIGGLE[s], steps) for s in range(seeds)}
    before = {} if fresh else {s: _log(4.0 + 3 * _WIGGLE[s], 8.0, 8) for s in range(seeds)}
    return Arm(("old", "far"), runs, before)


def _verdicts(arms, replayed=None, peaks=None):
    rows = lib.expected_rows("far", arms, replayed or {}, peaks or {})
    return {row["name"].removeprefix("far/expected/"): lib.verdict_of(row) for row in rows}


@pytest.mark.parametrize(
    ("loss", "verdict"), [(4.3, lib.SHOWN), (4.5, lib.NOT_SHOWN), (4.8, lib.CONTRARY)]
)
def test_whether_a_little_replay_removes_half(loss, verdict):
    arms = {"none": _arm(5.0, 5.0), "little": _arm(loss, 5.0)}
    found = _verdicts(arms, {0.0: "none", 0.01: "little"})
    assert found == {"replay_0.01_removes_half": verdict}


def test_whether_a_higher_peak_adapts_more_and_forgets_more():
    arms = {"half": _arm(4.5, 5.5), "plain": _arm(5.0, 5.0), "twice": _arm(5.0, 5.2)}
    peaks = {1.0: "plain", 0.5: "half", 2.0: "twice"}
    assert _verdicts(arms, peaks=peaks) == {
        "peak_1_over_0.5_adapts_more": lib.SHOWN,
        "peak_1_over_0.5_forgets_more": lib.SHOWN,
        "peak_2_over_1_adapts_more": lib.CONTRARY,
        "peak_2_over_1_forgets_more": lib.NOT_SHOWN,
    }


@pytest.mark.parametrize(
    ("loss", "steps", "verdict"),
    [(5.03, 4, lib.SHOWN), (5.2, 4, lib.CONTRARY), (5.05, 4, lib.NOT_SHOWN),
     (5.03, 8, lib.CONTRARY)],
)  # fmt: skip
def test_whether_the_recipe_is_near_the_union_at_half_its_cost(loss, steps, verdict):
    arms = {"recipe": _arm(loss, loss, steps=steps), "union": _arm(5.0, 5.0, True, steps=12)}
    rows = lib.expected_rows("far", arms, {0.05: "recipe"}, {})
    assert [lib.verdict_of(row) for row in rows] == [verdict]
    assert rows[0]["value"] == pytest.approx(loss / 5 - 1)
    assert rows[0]["n"] == 3


def test_one_seed_shows_nothing():
    arms = {"none": _arm(5.0, 5.0, seeds=1), "little": _arm(4.0, 5.0, seeds=1)}
    assert set(_verdicts(arms, {0.0: "none", 0.01: "little"}).values()) == {lib.NOT_SHOWN}


def test_what_the_arms_cannot_say_is_not_asked():
    assert _verdicts({"none": _arm(5.0, 5.0)}, {0.0: "none", 0.1: "none"}, {1.0: "none"}) == {}


def test_judge_wants_the_whole_interval():
    row = interval_row("x", exact(0.4), "1", 3, "d")
    assert lib.verdict_of(lib.judge(row, low=0)) == lib.NOT_SHOWN
    ends = {**row, "low": 0.3, "high": 0.5}
    assert lib.verdict_of(lib.judge(ends, low=0.29, high=0.51)) == lib.SHOWN
    assert lib.verdict_of(lib.judge(ends, low=0.51)) == lib.CONTRARY
    assert lib.judge(ends, low=0.1, cost="dear")["note"].startswith("the contrary is shown; dear")
