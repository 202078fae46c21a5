"""Savings are those that curves were made with, in every convention, with intervals that cover."""

import dataclasses
import math

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.growth.crossings import Curve, crossing, loss_at
from llm_dynamics.growth.savings import (
    Trial,
    equal_cost_rows,
    savings_rows,
    step_costs,
    targets_at,
    targets_of,
)
from llm_dynamics.growth.timing import saved_from_speedup
from llm_dynamics.model import size
from llm_dynamics.model.presets import PRESETS


def _law(cost):
    return 2 + 3 * (np.asarray(cost, float) + 1) ** -0.5


def _pair(saved=0.4, factor=1.0, noise=0.0, rng=None, end=100.0, **charges):
    """A grown run that is anywhere where the other one is at 1 / (1 - saved) times its cost."""
    cost_S = np.linspace(0, end, 51)
    scratch_S, grown_S = _law(cost_S / factor), _law(cost_S / factor / (1 - saved))
    if noise:
        scratch_S, grown_S = (x + noise * rng.normal(size=51) for x in (scratch_S, grown_S))
    return Trial(Curve(cost_S, scratch_S), Curve(cost_S, grown_S), **charges)


def _rows(rows):
    found = {row["name"]: row for row in rows}
    assert len(found) == len(rows)
    return found


# ---- the crossing --------------------------------------------------------------------------------


def test_crossing_is_interpolated():
    curve = Curve(np.array([0.0, 10, 20, 40]), np.array([5.0, 4, 3, 2]))
    for target, cost in ((4.0, 10), (3.5, 15), (2.25, 35), (2.0, 40)):
        for smoother in ("isotonic", "minimum"):
            found = crossing(curve, target, smoother)
            assert found.cost == pytest.approx(cost) and not found.at_start
            assert loss_at(curve, cost, smoother) == pytest.approx(target)


def test_bumps_are_pooled_and_the_minimum_passes_under_them():
    curve = Curve(np.array([0.0, 1, 2, 3, 4]), np.array([5.0, 3, 4, 2, 1]))
    # 3 and 4 are pooled to 3.5 at their middle, 1.5.
    assert crossing(curve, 3.5).cost == pytest.approx(1.5)
    assert crossing(curve, 3.0).cost == pytest.approx(2.0)
    assert crossing(curve, 3.0, "minimum").cost == pytest.approx(1.0)
    # The minimum stays at 3 until the loss is lower.
    assert crossing(curve, 2.5, "minimum").cost == pytest.approx(2.5)


def test_a_spike_behind_growth_counts_unless_the_minimum_is_asked_for():
    curve = Curve(np.array([0.0, 1, 2, 3]), np.array([3.0, 4.0, 2.9, 2.0]))
    assert crossing(curve, 3.1, "minimum").at_start
    found = crossing(curve, 3.1)
    assert not found.at_start and 1 < found.cost < 2


def test_crossings_that_are_not():
    curve = Curve(np.array([5.0, 10]), np.array([4.0, 3.0]))
    assert crossing(curve, 2.9).cost is None
    assert crossing(curve, 4.2) == (5.0, True)


def test_noise_is_smoothed_away():
    rng = np.random.default_rng(0)
    cost_S = np.linspace(0, 100, 401)
    found, least = [], []
    for _ in range(50):
        curve = Curve(cost_S, _law(cost_S) + 0.03 * rng.normal(size=401))
        found.append(crossing(curve, _law(40)).cost)
        least.append(crossing(curve, _law(40), "minimum").cost)
    assert np.mean(found) == pytest.approx(40, abs=2)
    assert np.mean(least) < 36  # the first lucky record


# ---- rows ----------------------------------------------------------------------------------------


def test_known_savings_in_every_convention():
    trials = {seed: _pair(0.4, source=10, operator=4, probe=2) for seed in (1, 2, 3)}
    rows = _rows(savings_rows("stack", trials, "tokens"))
    for percent in (60, 80, 100):
        name = f"stack/at_{percent}%"
        cost = percent
        # Grown has 1.0 added inside the law, in cost that it has not had: near 0.4, not at it.
        grown = 0.6 * cost
        assert rows[f"{name}/grown"]["value"] == pytest.approx(grown, rel=0.01)
        grown = rows[f"{name}/grown"]["value"]
        assert rows[f"{name}/scratch"]["value"] == pytest.approx(cost)
        assert rows[f"{name}/scratch"]["unit"] == "tokens"
        for charge, extra in (("alone", 0), ("operator", 6), ("source", 10), ("all", 16)):
            saved = rows[f"{name}/{charge}/saved"]
            speedup = rows[f"{name}/{charge}/speedup"]
            assert saved["value"] == pytest.approx(1 - (grown + extra) / cost)
            assert speedup["value"] == pytest.approx(cost / (grown + extra) - 1)
            assert saved["n"] == 3 and saved["unit"] == "1"
            assert saved["low"] == pytest.approx(saved["value"])  # all seeds are the same
        assert rows[f"{name}/share/source"]["value"] == pytest.approx(10 / cost)
        assert rows[f"{name}/share/probe"]["value"] == pytest.approx(2 / cost)


def test_definitions_tell_the_conventions_apart():
    rows = _rows(savings_rows("g", {1: _pair(), 2: _pair()}, "FLOPs"))
    words = {row["definition"] for row in rows.values() if row["name"].endswith("%/alone/saved")}
    assert len(words) == 1 and "isotonic" in words.pop()
    definitions = {rows[f"g/at_80%/{c}/saved"]["definition"] for c in ("alone", "source", "all")}
    assert len(definitions) == 3
    assert not any("/share/" in name for name in rows)  # nothing was charged


def test_speedup_is_the_saving_in_other_words_ends_included():
    rng = np.random.default_rng(3)
    trials = {s: _pair(0.4, factor=rng.uniform(0.8, 1.2), noise=0.01, rng=rng) for s in range(4)}
    losses = targets_of([2.8, 2.6, 2.5], trials)
    rows = _rows(savings_rows("g", trials, "tokens", losses))
    for target in losses:
        saved, speedup = (rows[f"g/{target}/alone/{m}"] for m in ("saved", "speedup"))
        for end in ("value", "low", "high"):
            assert saved_from_speedup(speedup[end]) == pytest.approx(saved[end])
        assert saved["low"] < saved["value"] < saved["high"]


def test_seeds_are_paired():
    # Seeds differ threefold in what they cost; what is saved in each is the same.
    trials = {s: _pair(0.4, factor=f, end=100 * f) for s, f in enumerate((1.0, 1.5, 2, 2.5, 3))}
    rows = _rows(savings_rows("g", trials, "tokens"))
    row = rows["g/at_80%/alone/saved"]
    assert row["high"] - row["low"] < 0.01
    scratch = rows["g/at_80%/scratch"]
    assert scratch["high"] - scratch["low"] > 100


def test_intervals_cover():
    rng = np.random.default_rng(7)
    hits = shown = 0
    total = 120
    for _ in range(total):
        trials = {}
        for seed in range(4):
            factor = math.exp(0.1 * rng.normal())
            trials[seed] = _pair(0.4 + 0.05 * rng.normal(), factor, 0.003, rng, end=120)
        rows = _rows(savings_rows("g", trials, "tokens", targets_of([2.4, 2.35, 2.33], trials)))
        row = rows["g/loss_2.35/alone/saved"]
        truth = 0.4
        hits += row["low"] <= truth <= row["high"]
        shown += row["low"] > 0
    # 95 % of 120 is 114, with a standard deviation of 2.4.
    assert 107 <= hits < 120
    assert shown > 0.9 * total


def test_one_seed_has_no_interval():
    row = _rows(savings_rows("g", {5: _pair()}, "tokens"))["g/at_100%/alone/saved"]
    assert row["value"] is not None and row["low"] is None and "one seed" in row["note"]


def test_a_target_that_is_not_reached_is_said_to_be():
    short = _pair(-1.0)  # grown costs twice as much, and ends at the same cost
    rows = _rows(savings_rows("g", {1: _pair(), 2: short}, "tokens"))
    row = rows["g/at_100%/alone/saved"]
    assert row["value"] is None and row["low"] is None and row["n"] == 1
    assert "does not reach" in row["note"] and "1 of 2 seeds (2)" in row["note"]
    assert "at most 0 is saved there" in row["note"]
    assert rows["g/at_100%/all/speedup"]["value"] is None
    assert rows["g/at_100%/scratch"]["value"] == pytest.approx(100)
    assert rows["g/at_100%/grown"]["value"] is None
    assert rows["g/at_100%/loss"]["value"] == pytest.approx(_law(100))


def test_bound_where_it_is_not_reached_counts_the_charge():
    trial = dataclasses.replace(_pair(-1.0), source=20.0)
    rows = _rows(savings_rows("g", {1: trial, 2: trial}, "tokens"))
    assert "at most -0.2 is saved there" in rows["g/at_100%/all/saved"]["note"]
    assert "at most 0 is saved there" in rows["g/at_100%/operator/saved"]["note"]


def test_explicit_targets_that_the_scratch_run_does_not_reach():
    trials = {1: _pair(), 2: _pair()}
    losses = targets_of([1.0, 2.5, 9.0], trials)
    rows = _rows(savings_rows("g", trials, "tokens", losses))
    low, high = (rows[f"g/loss_{x}/alone/saved"] for x in ("1", "9"))
    assert low["value"] is None and "the run from scratch does not reach" in low["note"]
    assert high["value"] is None and "from scratch is there at its first record" in high["note"]
    assert rows["g/loss_2.5/alone/saved"]["value"] is not None


def test_a_grown_run_that_starts_below_the_target():
    cost_S = np.array([10.0, 20, 50])
    grown = Curve(cost_S, np.array([2.4, 2.3, 2.25]))
    base = _pair()
    trials = {s: dataclasses.replace(base, grown=grown, source=15.0) for s in (1, 2)}
    rows = _rows(savings_rows("g", trials, "tokens", targets_of([2.5, 2.35, 2.3], trials)))
    scratch = rows["g/loss_2.5/scratch"]["value"]
    row = rows["g/loss_2.5/alone/saved"]
    assert row["value"] == pytest.approx(1 - 10 / scratch)
    assert "first record" in row["note"] and "at least" in row["note"]
    assert "first record" not in rows["g/loss_2.35/alone/saved"]["note"]


def test_nothing_spent_is_no_speedup_in_numbers():
    grown = Curve(np.array([0.0, 50]), np.array([2.3, 2.1]))
    trials = {s: dataclasses.replace(_pair(), grown=grown) for s in (1, 2)}
    rows = _rows(savings_rows("g", trials, "tokens", targets_of([2.8, 2.5, 2.4], trials)))
    assert rows["g/loss_2.5/alone/saved"]["value"] == 1
    speedup = rows["g/loss_2.5/alone/speedup"]
    assert speedup["value"] is None and "costs nothing" in speedup["note"]
    assert "at least" not in rows["g/loss_2.5/alone/saved"]["note"]


def test_unfinished_schedules_are_warned_of():
    base = _pair()
    scratch = dataclasses.replace(base.scratch, schedule_end=100.0)
    trials = {s: dataclasses.replace(base, scratch=scratch) for s in (1, 2)}
    rows = _rows(savings_rows("g", trials, "tokens"))
    note = rows["g/at_60%/all/saved"]["note"]
    assert "from scratch is at 60 % of its schedule" in note and "biased for growth" in note
    row = _rows(equal_cost_rows("g", trials, "tokens"))["g/at_60%/alone/loss_difference"]
    assert "from scratch is at 60 % of its schedule" in row["note"]
    assert "schedule" not in rows["g/at_100%/all/saved"]["note"]
    grown = dataclasses.replace(base.grown, schedule_end=100.0)
    trials = {s: dataclasses.replace(base, scratch=scratch, grown=grown) for s in (1, 2)}
    note = _rows(savings_rows("g", trials, "tokens"))["g/at_100%/all/saved"]["note"]
    assert "grown run is at 60 % of its schedule" in note and "biased against growth" in note
    assert "schedule" not in _rows(savings_rows("g", {1: base}, "s"))["g/at_60%/all/saved"]["note"]


def test_a_lucky_last_loss_is_noted():
    for noise, noted in ((0.003, False), (0.02, True)):
        rng = np.random.default_rng(2)
        trials = {s: _pair(0.4, noise=noise, rng=rng) for s in (1, 2)}
        rows = _rows(savings_rows("g", trials, "tokens"))
        assert ("lucky" in rows["g/at_100%/alone/saved"]["note"]) is noted
        assert "lucky" not in rows["g/at_60%/alone/saved"]["note"]


def test_units_are_a_matter_of_cost():
    trials = {s: _pair(source=10.0) for s in (1, 2)}
    tokens = _rows(savings_rows("g", trials, "tokens"))
    # A source's token costs a quarter of a target's.
    flops = {
        s: Trial(t.scratch.times(6e9), t.grown.times(6e9), source=t.source * 1.5e9)
        for s, t in trials.items()
    }
    rows = _rows(savings_rows("g", flops, "FLOPs", targets_at(trials)))
    assert rows["g/at_80%/alone/saved"]["value"] == pytest.approx(
        tokens["g/at_80%/alone/saved"]["value"]
    )
    assert rows["g/at_80%/share/source"]["value"] == pytest.approx(10 / 80 / 4)
    assert trials[1].scratch.times(2.0).schedule_end is None


def test_at_equal_cost():
    trials = {s: _pair(0.5, source=20.0) for s in (1, 2, 3)}
    rows = _rows(equal_cost_rows("g", trials, "tokens"))
    for charge, cost in (("alone", 60), ("source", 40)):
        expected = _law(2 * cost) - _law(60)
        row = rows[f"g/at_60%/{charge}/loss_difference"]
        assert row["value"] == pytest.approx(expected, abs=2e-3) and row["unit"] == "nats per token"
    assert "tokens" in row["definition"]
    dear = {s: dataclasses.replace(t, source=70.0) for s, t in trials.items()}
    rows = _rows(equal_cost_rows("g", dear, "tokens"))
    row = rows["g/at_60%/source/loss_difference"]
    assert row["value"] is None and "before the grown run's first record" in row["note"]
    assert rows["g/at_80%/source/loss_difference"]["value"] is not None
    grown = Curve(np.array([0.0, 50]), np.array([3.0, 2.0]))
    short = {s: dataclasses.replace(t, grown=grown) for s, t in trials.items()}
    row = _rows(equal_cost_rows("g", short, "tokens"))["g/at_60%/alone/loss_difference"]
    assert row["value"] is None and "ends before" in row["note"]


def test_costs_of_a_step():
    config = PRESETS["pocket-0.3m"]
    costs = step_costs(config, batch=4, length=64)
    assert costs["tokens"] == 256
    assert costs["FLOPs"] == 256 * size.flops_per_token(config, 64)
    assert costs["FLOPs as published"] != costs["FLOPs"] > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: Curve(np.array([0.0, 0.0]), np.array([1.0, 2.0])),
        lambda: Curve(np.array([-1.0, 0.0]), np.array([1.0, 2.0])),
        lambda: Curve(np.array([0.0]), np.array([1.0])),
        lambda: Curve(np.array([0.0, 1.0]), np.array([1.0, math.nan])),
        lambda: Curve(np.array([0.0, 1.0]), np.array([1.0, 2.0, 3.0])),
        lambda: Curve(np.array([0.0, 1.0]), np.array([2.0, 1.0]), schedule_end=0.0),
        lambda: _pair(source=-1.0),
        lambda: _pair(probe=math.nan),
        lambda: savings_rows("g", {}, "tokens"),
        lambda: savings_rows("g", {1: _pair()}, "tokens", targets_of([2.5], {1: _pair()})),
        lambda: savings_rows("g", {1: _pair()}, "tokens", {x: {2: 2.5} for x in "abc"}),
        lambda: targets_at({1: _pair()}, (0.5, 1.1)),
        lambda: crossing(_pair().grown, 2.5, "mean"),
        lambda: crossing(_pair().grown, math.nan),
        lambda: _pair().grown.times(0),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(UserError, match=r"expected|unknown"):
        call()
