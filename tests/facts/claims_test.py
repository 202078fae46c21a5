"""Contrasts of claims on synthetic logs whose truth is known."""

import math

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import claims, estimates
from llm_dynamics.facts.threshold import Threshold
from llm_dynamics.results import verdict
from tests.facts.simulate import make_log

SCHEDULE = {
    "duplication": (20, 40, 60, 80),
    "paraphrase6": (20, 40, 60, 80),
    "late": (100, 120, 140, 160),
    "every60": (20, 80, 140, 200),
    "control": (),
}
ROLES = {
    "duplication": ("duplication",),
    "paraphrase": ("paraphrase6",),
    "late": ("late",),
    "intervals": ("duplication", "every60"),
}
GAINS = {
    "duplication": (1.0, 0.1),
    "paraphrase6": (0.5, 0.1),
    "late": (2.0, 0.1),
    "every60": (1.0, 0.6),  # gone before the next encounter
}


def _study(gains=GAINS, seed=0, noise=0.05, shared=0.5):
    log = make_log(
        SCHEDULE, 300, facts_per_arm=10, gains=gains, noise=noise, shared=shared, seed=seed,
        fact_spread=0.2,
    )  # fmt: skip
    return estimates.open_study(log, SCHEDULE, 10, 0, 200)


def _verdicts(rows):
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    return {row["name"]: verdict(row, float(row["name"].endswith("inflation"))) for row in rows}


@pytest.fixture(scope="module")
def study():
    return _study()


def test_claims_of_one_run(study):
    rows = claims.within_run(study, "run", ROLES)
    found = _verdicts(rows)
    at = "run/memorization/"
    assert found[at + "gain"] == "above"
    assert found[at + "inflation"] == "above"  # the shared part is in the raw gain
    assert found[at + "duplication-minus-paraphrase6/gain"] == "above"
    assert found[at + "late-minus-early/late"] == "above"
    assert found[at + "accumulation/duplication"] == "above"
    assert found[at + "accumulation/every60"] == "not shown"
    assert found["run/memorization-minus-semantic"] == "above"
    by_name = {row["name"]: row for row in rows}
    assert "not shown" in by_name[at + "accumulation/every60"]["note"]
    raw = by_name[at + "gain/raw"]["value"] / by_name[at + "gain"]["value"]
    assert by_name[at + "inflation"]["value"] == pytest.approx(raw)


def test_levels_before_encounters_by_hand(study):
    levels = claims.levels_before(study, "duplication", "memorization")
    table = study.table
    found = []
    for arm in ("duplication", "control"):
        probes = (table.labels["arm"] == arm) & (table.labels["depth"] == "memorization")
        rows = [int(np.flatnonzero(table.steps_S == t)[0]) for t in SCHEDULE["duplication"]]
        level_U = table.loglik_SxP[rows][:, probes].mean(axis=1)
        found.append(level_U - level_U[0])
    np.testing.assert_allclose(levels.draws_RxT[0], found[0] - found[1], atol=1e-9)
    slope = np.polyfit(np.arange(4), found[0] - found[1], 1)[0]
    ours = claims.accumulation(study, "duplication", "memorization").draws_RxT[0, 0]
    assert ours == pytest.approx(slope)


def test_runs_are_compared_fact_by_fact(study):
    same = claims.between_runs(study, study, "x", "duplication", "with itself", after=50)
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in same)
    assert all("not shown" in row["note"] for row in same)
    larger = _study({**GAINS, "duplication": (1.5, 0.1)})
    rows = claims.between_runs(larger, study, "x", "duplication", "larger less small", after=50)
    assert _verdicts(rows)["x/memorization/gain"] == "above"


def test_seeds_are_the_unit_of_their_interval():
    studies = [_study(seed=seed) for seed in range(3)]
    rows = {row["name"]: row for row in claims.seeds(studies, "duplication", "memorization")}
    values = [rows[f"seeds/memorization/study-{i}"]["value"] for i in range(3)]
    mean = rows["seeds/memorization/mean"]
    assert mean["value"] == pytest.approx(np.mean(values)) and mean["n"] == 3
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # t with 2 degrees of freedom
    assert mean["high"] - mean["value"] == pytest.approx(half, rel=1e-5)
    (alone,) = [
        r for r in claims.seeds(studies[:1], "duplication", "semantic") if "mean" in r["name"]
    ]
    assert alone["low"] is None and alone["n"] == 1


def test_interval_of_an_arm_and_its_note_say_what_was_resampled(study):
    rows = {row["name"]: row for row in claims.within_run(study, "run", ROLES)}
    gain = rows["run/memorization/gain"]
    assert gain["definition"].endswith("; facts resampled")
    assert "one run: how runs vary is not in the interval" in gain["note"]
    assert "arms of different facts" in gain["note"]
    assert "arms of different facts" not in rows["run/memorization/gain/raw"]["note"]


def test_what_duplication_and_paraphrase_keep(study):
    rows = {row["name"]: row for row in claims.within_run(study, "run", ROLES, after=60)}
    at = "run/memorization/"
    shares = [rows[f"{at}share-after-60/{arm}"] for arm in ("duplication", "paraphrase6")]
    apart = rows[at + "duplication-minus-paraphrase6/share-after-60"]
    assert apart["value"] == pytest.approx(shares[0]["value"] - shares[1]["value"])
    assert all(0 < share["value"] < 1 for share in shares)
    gains = {
        (arm, steps): claims.subtracted(study, arm, "memorization", claims.gain_after(steps))
        for arm in ("duplication", "paraphrase6")
        for steps in (0, 60)
    }
    lost = {
        arm: (gains[arm, 0] - gains[arm, 60]).draws_RxT[0, 0]
        for arm in ("duplication", "paraphrase6")
    }
    row = rows[at + "duplication-minus-paraphrase6/lost-after-60"]
    assert row["value"] == pytest.approx(lost["duplication"] - lost["paraphrase6"])
    assert row["low"] > 0  # half of the gain forgets half as many nats


def test_a_share_of_nothing_says_so():
    study = _study({**GAINS, "paraphrase6": (0.0, 0.1)}, noise=0.3)
    rows = {row["name"]: row for row in claims.within_run(study, "run", ROLES)}
    at = "run/memorization/"
    assert "not shown to be positive" in rows[at + "share-after-100/paraphrase6"]["note"]
    apart = rows[at + "duplication-minus-paraphrase6/share-after-100"]
    assert "paraphrase6: the gain it is a share of" in apart["note"]


def test_steps_beyond_the_run_are_refused(study):
    with pytest.raises(UserError, match="400 steps after the last maximum of arm duplication"):
        claims.subtracted(study, "duplication", "semantic", claims.gain_after(400))


class ThresholdTest(parameterized.TestCase):
    def _rows(self, forgotten, noise=0.0):
        log = make_log(
            {"duplication": (20, 40, 60, 80), "every60": (20, 80, 140, 200), "control": ()},
            320,
            gains={"duplication": (1.0, forgotten), "every60": (1.0, forgotten)},
            noise=noise,
            fact_spread=0.1,
        )
        times = {"duplication": (20, 40, 60, 80), "every60": (20, 80, 140, 200), "control": ()}
        study = estimates.open_study(log, times, 10, 0, 200)
        roles = {key: ROLES[key] for key in ("duplication", "intervals")}
        rows = {row["name"]: row for row in claims.within_run(study, "run", roles)}
        return study, rows

    def test_the_line_of_the_gain_crosses_where_that_of_retainability_does(self):
        study, rows = self._rows(0.45)
        curve = estimates.subtracted_curve(
            study,
            study.cell("duplication", "memorization"),
            study.cell("control", "memorization", "duplication"),
        )
        line = estimates.line_of(curve, study.cell("duplication", "memorization").offsets_T)
        expected = estimates.crossing(line).draws_RxT[0, 0]
        found = rows["run/memorization/threshold/predicted"]
        self.assertAlmostEqual(found["value"], expected)
        self.assertIn("inside the data", found["note"])
        steps = np.log10(60 - study.lag)
        row = rows["run/memorization/threshold/every60"]
        self.assertAlmostEqual(row["value"], steps - expected)
        gain = claims.subtracted(study, "duplication", "memorization", claims.gain_after(0))
        left = (line.draws_RxT[0] @ [steps, 1]) * gain.draws_RxT[0, 0]
        row = rows["run/memorization/foretold/every60"]
        self.assertAlmostEqual(row["value"], left)
        self.assertEqual(verdict(row), "above" if steps < expected else "below")

    def test_shorter_intervals_are_often_enough(self):
        _, rows = self._rows(0.3)
        row = rows["run/memorization/threshold/every60"]
        self.assertIn("more often than the predicted threshold", row["note"])
        self.assertEqual(verdict(row), "below")

    @parameterized.parameters(
        (1.0, 2.0, 0.5, "more often than the predicted threshold: foretold to build up"),
        (1.0, 2.0, 1.5, "within the interval"),
        (1.0, 2.0, 2.5, "rarer than the predicted threshold"),
        (1.0, math.inf, 0.5, "more often than the predicted threshold, which may lie at any"),
        (1.0, math.inf, 1.5, "unbounded"),
        (math.nan, math.nan, 1.5, "unknown"),
    )
    def test_sides(self, low, high, log_interval, words):
        found = Threshold(1.5, low, high, 3.0, "inside")
        self.assertIn(words, claims.side(found, log_interval))

    def test_a_line_that_need_not_fall_is_unbounded(self):
        _, rows = self._rows(0.0, noise=0.5)
        row = rows["run/memorization/threshold/predicted"]
        self.assertIn("unbounded", row["note"])
        for arm in ("duplication", "every60"):
            row = rows[f"run/memorization/threshold/{arm}"]
            self.assertTrue("infinity" in row["note"] or "any longer one" in row["note"])
            self.assertIsNone(row["low"])


def test_unpaired_runs_rest_on_the_facts_of_the_smaller_and_add_their_variances():
    one, other = _study(seed=1), _study(seed=2)
    few = make_log(SCHEDULE, 300, facts_per_arm=6, gains=GAINS, noise=0.05, seed=3)
    few = estimates.open_study(few, SCHEDULE, 10, 0, 200)
    rows = claims.between_runs(one, few, "x", "duplication", "a less b", paired=False)
    assert {row["n"] for row in rows} == {6}
    assert all("unpaired" in row["definition"] for row in rows)
    twice = claims.between_runs(one, other, "x", "duplication", "a less b", 50, 100)
    assert "50 steps in the first, 100 in the second" in twice[0]["definition"]
    share = [
        claims.share_left(study, "duplication", "memorization", steps).draws_RxT[0, 0]
        for study, steps in ((one, 50), (other, 100))
    ]
    (row,) = [row for row in twice if row["name"] == "x/memorization/share-after-50"]
    assert row["value"] == pytest.approx(share[0] - share[1])
