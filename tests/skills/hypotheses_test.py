"""Hypotheses asked of invented runs that keep or break them."""

import dataclasses

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.results import verdict
from llm_dynamics.skills import hypotheses, trained_rows
from llm_dynamics.skills.training import Seen
from tests.skills import invented_runs

SKILLS, LOOKS = 20, 40


def learned(power=1.0, seed=0, best=0.97, rate=2.0):
    """Skill of rank r is had after a time that goes as r^power; wrong answers cost 2 ln 2."""
    steps = np.linspace(0, 4000, LOOKS + 1).astype(int)
    times = 250 * np.arange(1, SKILLS + 1) ** power * (1 + 0.02 * seed) / rate
    right = best / (1 + np.exp(-8 * np.log(np.maximum(steps, 1)[:, None] / times)))
    return invented_runs.run(right, steps, texts=2000, zipf=power)


@pytest.fixture(scope="module")
def arm():
    return {seed: learned(seed=seed) for seed in range(3)}


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_runs_that_keep_the_bounds_are_counted(arm):
    rows = by_name(hypotheses.bounds_rows({"a": arm}, (0.1, 0.5)))
    points = 3 * (LOOKS + 1)
    assert rows["h1/violations"]["value"] == 0 and rows["h1/violations"]["n"] == 3 * points
    assert rows["h1/closest"]["value"] < 0.02


def broken(run, **changes):
    seen = dataclasses.replace(run.seen["k4"], **changes)
    return {0: dataclasses.replace(run, seen={"k4": seen})}


def test_impossible_measurements_stop_the_study(arm):
    seen: Seen = arm[0].seen["k4"]
    with pytest.raises(UserError, match="answers are judged wrongly"):
        hypotheses.bounds_rows({"a": broken(arm[0], excess_NxT=0.1 * seen.excess_NxT)}, (0.1,))
    # All failing texts of one skill alone: i.i.d. skills cannot fail like that.
    skills = np.random.default_rng(0).integers(5, SKILLS, seen.skills_TxK.shape)
    skills[::10] = np.arange(200)[:, None] % 5
    right = np.ones_like(seen.right_NxTxA)
    right[:, ::10] = False
    order = np.random.default_rng(1).permutation(2000)
    lost = broken(
        arm[0], skills_TxK=skills[order], right_NxTxA=right[:, order],
        excess_NxT=np.full(seen.excess_NxT.shape, 5.0),
    )  # fmt: skip
    language = dataclasses.replace(arm[0].config.language, zipf=0.0)
    lost[0] = dataclasses.replace(
        lost[0], config=dataclasses.replace(arm[0].config, language=language)
    )
    with pytest.raises(
        UserError, match=r"a, seed 0, k4, step 0: the weakest skills of measure 0.2"
    ):
        hypotheses.bounds_rows({"a": lost}, (0.2,))


def test_emergence_finds_the_exponent_that_was_put_in(arm):
    steep = {seed: learned(0.5, seed, rate=3.0) for seed in range(3)}
    rows = by_name(hypotheses.emergence_rows({1.0: arm, 0.5: steep}, "k4"))
    for zipf in (0.5, 1.0):
        found = rows[f"h6/zipf={zipf:g}/slope"]
        assert abs(found["value"] - zipf) < 0.12 and found["n"] == 3
    wrong = by_name(hypotheses.emergence_rows({2.0: arm}, "k4"))["h6/zipf=2/slope"]
    assert "below 2" in wrong["note"]


def test_slingshot_rows_say_whether_they_lie_within(arm):
    rows = by_name(hypotheses.slingshot_rows({16.0: arm, 32.0: arm}, "k4", (0.8,)))
    found = rows["h2/width=16/slingshot_2/tau=0.8"]
    assert "0.9 to 1.25" in found["note"]
    drift = rows["h2/drift_2/tau=0.8"]
    np.testing.assert_allclose(drift["value"], 0, atol=1e-9)
    assert verdict(drift) == "not shown"


def test_scale_rows_find_a_doubling_where_errors_are_few_and_independent():
    widths = {}
    for width, best in ((16.0, 0.94), (24.0, 0.97), (32.0, 0.985)):
        widths[width] = {s: learned(0.2, s, best, rate=8.0) for s in range(2)}
    found = by_name(hypotheses.scale_rows(widths, "k4", (0.94,)))["h3/slope/tau=0.94"]
    assert abs(found["value"] - 1) < 0.25, found


def test_arm_rows_count_the_seeds_that_have_a_number(arm):
    never = learned(best=0.6)
    rows = by_name(trained_rows.arm_rows("a", {**arm, 3: never}, (0.1,), (0.9, 0.999)))
    assert rows["trained/a/k4/theta"]["n"] == 4
    assert rows["trained/a/k4/slingshot_2/tau=0.9"]["n"] == 3
    assert "1 of 4 seeds have no such number" in rows["trained/a/k4/slingshot_2/tau=0.9"]["note"]
    assert "trained/a/k4/slingshot_2/tau=0.999" not in rows
    residual = rows["trained/a/k4/residual_4"]
    assert abs(residual["value"]) < 0.01  # answers are independent
    assert rows["trained/a/k4/residual_4/largest"]["value"] > abs(residual["value"])
    assert 0 < rows["trained/a/k4/jump_failed"]["value"] < 1
