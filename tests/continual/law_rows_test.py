"""Second stages foretold without what they are held out of, on arms that obey a known law."""

import dataclasses
import math

import numpy as np
import pytest

from llm_dynamics.continual import law_rows
from llm_dynamics.continual.curve_fit import fit_curves
from llm_dynamics.continual.law_rows import (
    SCHEDULES,
    SHARES,
    decays_for,
    held_out,
    held_out_rows,
    replay_rows,
)
from tests.continual.desk_arms import DECAY, POWER, desk_arms, plan

SOME = ("rewarm-replay-0", "rewarm-replay-0.05", "rewarm-replay-0.1", "rewarm-replay-0.5")
SMALL = (*SOME, "rewarm-replay-0-keep", "floor", "same")


def _arms(names, truth=POWER, **settings):
    drop = [name for name in plan() if name not in names]
    return desk_arms(truth, drop=drop, first=200, second=100, **settings)


@pytest.fixture(autouse=True)
def one_decay(monkeypatch):
    """The true one alone, which saves most of the time."""
    monkeypatch.setattr(law_rows, "decays_for", lambda steps: (DECAY,))


@pytest.fixture(scope="module")
def plan_of_all():
    """What is held out of what among all arms of a study of desk size."""
    arms, shares = desk_arms(every=125)
    lawful, note = law_rows._lawful(arms)
    curves = {v: arm.law_curves("old", shares[v], first=False) for v, arm in lawful.items()}
    return held_out(curves), note


def test_arms_that_the_law_cannot_tell_apart_are_left_out(plan_of_all):
    found, note = plan_of_all
    assert not {"same", "new", "rewarm-replay-0-keep", "rewarm-replay-0.05-keep"} & set(found)
    assert "on the old data: same" in note and "policy: rewarm-replay-0-keep, rew" in note
    # Its own optimizer policy is the one of its own first stage.
    assert "infinite-replay-0" in found


def test_arms_are_held_out_by_kind(plan_of_all):
    found, _ = plan_of_all
    kinds = {name: one.kind for name, one in found.items()}
    assert [name for name, kind in kinds.items() if kind == SHARES] == [
        f"rewarm-replay-{x}" for x in ("0.005", "0.01", "0.05", "0.1", "0.25")
    ]
    assert {name for name, kind in kinds.items() if not kind} == {
        "rewarm-replay-0",
        "rewarm-replay-0.5",
    }
    assert kinds["infinite-replay-0"] == kinds["floor"] == SCHEDULES
    # No arm of its rates: another share of the same peak would give it away.
    assert not any("peak-2" in one for one in found["rewarm-replay-0-peak-2"].others)
    assert "rewarm-replay-0" in found["rewarm-replay-0-peak-2"].others
    # No arm of its share.
    assert not any("0.05" in one for one in found["rewarm-replay-0.05"].others)
    # At the ends other schedules of its share are left, but no twin.
    assert "floor" in found["rewarm-replay-0"].others
    assert "rewarm-replay-0" not in found["rewarm-replay-0"].others


def test_curves_of_two_arms_that_the_law_cannot_tell_apart_are_no_seeds():
    arms, shares = _arms(SMALL)
    twins = [
        curve
        for name in ("rewarm-replay-0", "rewarm-replay-0-keep", "floor")
        for curve in arms[name].law_curves("old", shares[name], arm=name)
    ]
    assert fit_curves(twins, "old", resamples=0).points == 3 * 30
    nameless = [dataclasses.replace(curve, arm="") for curve in twins]
    with pytest.raises(law_rows.UserError, match="names of their own"):
        fit_curves(nameless, "old", resamples=0)


def test_rows_of_a_law_that_holds():
    arms, shares = _arms(SMALL, seeds=2, noise=1e-3)
    rows = {row["name"]: row for row in held_out_rows("x", arms, shares)}
    assert not any("keep" in name or "same" in name for name in rows)
    for dataset in ("old", "new"):
        for kind in (SCHEDULES, SHARES):
            law = rows[f"x/law_error/{dataset}/{kind}"]
            nearest = rows[f"x/nearest_error/{dataset}/{kind}"]
            anchored = rows[f"x/anchored_error/{dataset}/{kind}"]
            assert max(law["value"], anchored["value"]) < min(0.01, nearest["value"])
        law = rows[f"x/law_error/{dataset}/shares"]
        assert law["n"] == 2 and law["low"] < law["value"] < law["high"]
        assert "interval over arms" in law["note"] and "(rewarm-replay-0." in law["note"]
        assert "one arm: no interval" in rows[f"x/law_error/{dataset}/schedules"]["note"]
        one = rows[f"x/rewarm-replay-0.05/{dataset}/law_error"]
        assert (
            "fitted to rewarm-replay-0, rewarm-replay-0.1, rewarm-replay-0.5, floor"
            in (one["definition"])
        )
        assert "same" in one["note"]
    assert rows["x/law_form/old/power"]["value"] < rows["x/law_form/old/eq_8"]["value"]
    assert "chosen" in rows["x/law_form/old/power"]["note"]
    assert rows["x/law_form/old/eq_8"]["note"] == ""


def test_what_is_held_out_has_no_part_in_what_foretells_it():
    arms, shares = _arms([f"rewarm-replay-{x:g}" for x in (0.0, 0.01, 0.05, 0.25, 0.5)])
    curves = {v: arm.law_curves("old", shares[v], arm=v)[0] for v, arm in arms.items()}
    held = curves.pop("rewarm-replay-0.05")
    laws = []
    for losses_S in (held.losses_S, 1.3 * held.losses_S):
        whole = [*curves.values(), dataclasses.replace(held, losses_S=losses_S)]
        near = fit_curves(whole, "old", (DECAY,), resamples=0)
        laws.append(fit_curves(list(curves.values()), "old", (DECAY,), resamples=0, near=near))
    assert laws[0].form == laws[1].form == "power"
    assert laws[0].cost == pytest.approx(laws[1].cost, abs=1e-6)
    assert laws[1].relative_error(held) == pytest.approx(laws[0].relative_error(held), abs=2e-3)


def test_a_schedule_is_known_by_its_way_whatever_its_length():
    (short,) = _arms(("rewarm-replay-0",))[0]["rewarm-replay-0"].law_curves("old")
    arms, _ = _arms(("rewarm-replay-0.5", "hold"))
    (long,) = arms["rewarm-replay-0.5"].law_curves("old")
    (hold,) = arms["hold"].law_curves("old")
    way_T = np.interp(np.arange(180) / 180, np.arange(100) / 100, long.rates_T[200:])
    long = dataclasses.replace(long, rates_T=np.concatenate([long.rates_T[:200], way_T]))
    assert law_rows._same_rates(short, long) and law_rows._same_rates(long, short)
    assert not law_rows._same_rates(short, hold)
    elsewhere_T = 1.01 * short.rates_T
    assert not law_rows._same_rates(short, dataclasses.replace(short, rates_T=elsewhere_T))


def test_nearest_is_by_share_then_by_peak():
    arms, shares = _arms((*SOME, "rewarm-replay-0-peak-2", "rewarm-replay-0-peak-0.5"))
    curves = {v: arm.law_curves("old", shares[v], first=False) for v, arm in arms.items()}
    near = law_rows._nearest(curves["rewarm-replay-0-peak-2"][0], [
        curves[v] for v in ("rewarm-replay-0.05", "rewarm-replay-0-peak-0.5", "rewarm-replay-0")
    ])  # fmt: skip
    assert near is curves["rewarm-replay-0"]
    twice = [dataclasses.replace(curves["rewarm-replay-0"][0], seed=s) for s in (0, 1)]
    assert law_rows._distance(twice, twice[0]) == pytest.approx(0)
    higher = dataclasses.replace(twice[0], losses_S=1.1 * twice[0].losses_S)
    assert law_rows._distance([higher], twice[0]) == pytest.approx(0.1)
    assert law_rows._distance([twice[0], higher], twice[0]) == pytest.approx(math.sqrt(1.1) - 1)


def test_a_law_that_holds_makes_up_for_the_difference():
    arms, shares = _arms((*SOME, "floor"), noise=0.0)
    curves = {v: arm.law_curves("old", shares[v], first=True, arm=v) for v, arm in arms.items()}
    law = fit_curves([one for some in curves.values() for one in some], "old", (DECAY,), 0)
    late = {v: arm.law_curves("old", shares[v], first=False) for v, arm in arms.items()}
    pair = late["rewarm-replay-0"], late["floor"][0]
    assert law_rows._distance(*pair) > 0.05 > 0.005 > law_rows._distance(*pair, law)


def test_first_stages_are_of_one_model_and_seed():
    arms, _ = _arms((*SOME, "infinite-replay-0"), seeds=2)
    (_, curve) = arms["infinite-replay-0"].first_curves("new")
    assert curve.start == len(curve.rates_T) == 200 and curve.seed == 1
    losses_S = arms["infinite-replay-0"].before[1].losses_SxZ[:, 1]
    np.testing.assert_array_equal(curve.losses_S, losses_S)
    late = law_rows._thinned(curve, late=True)
    np.testing.assert_array_equal(late.steps_S, [140, 150, 160, 170, 180, 190, 200])
    np.testing.assert_array_equal(late.losses_S, losses_S[-7:])


def test_arms_beside_the_point_may_have_fewer_seeds():
    arms, shares = _arms(SMALL, seeds=2, noise=1e-3)
    for name in ("floor", "rewarm-replay-0-keep"):
        arm = arms[name]
        arms[name] = dataclasses.replace(arm, runs={0: arm.runs[0]}, before={0: arm.before[0]})
    rows = {row["name"]: row for row in held_out_rows("x", arms, shares)}
    assert rows["x/floor/old/law_error"]["n"] == 1
    assert rows["x/rewarm-replay-0.05/old/law_error"]["n"] == 2
    assert "x/rewarm-replay-0-keep/old/law_error" not in rows


def test_memory_of_the_rate_is_a_tenth_of_a_stage_at_most():
    assert decays_for(5) == decays_for(20) == (0.5,)
    assert decays_for(100) == (0.5, 0.9)
    assert decays_for(1000) == (0.5, 0.9, 0.97, 0.99)
    assert decays_for(10_000) == law_rows.DECAYS


def test_rows_of_a_sweep_of_shares():
    names = [f"rewarm-replay-{x:g}" for x in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5)]
    arms, shares = _arms(names, seeds=3, noise=1e-3)
    rows = {row["name"]: row for row in replay_rows("x", arms, shares)}
    assert rows["x/replay_law/old/inner_left_out_error"]["value"] < 0.05
    critical = rows["x/critical_share"]
    assert critical["n"] == 3 and 0.5 < critical["value"] < 0.99
    assert critical["low"] < critical["value"] < critical["high"]
    error = rows["x/dcpt_law/new/left_out_error"]
    assert error["value"] < 0.01 and error["n"] == 4
    assert not any(name.startswith("x/dcpt_law/old") for name in rows)
    assert replay_rows("x", arms, dict(list(shares.items())[:4])) == []
