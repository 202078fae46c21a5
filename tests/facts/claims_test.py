"""Contrasts of claims on synthetic logs whose truth is known."""

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.facts import claims, estimates
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


class FrequencyTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.7)
    def test_slope_on_log2_frequency(self, slope):
        counts = [12, 6, 4, 3, 2, 2, 2, 1]
        log = make_log({"zipf": (5,), "control": ()}, 60, facts_per_arm=8, gains={"zipf": (0, 0)})
        times = {f"zipf-{k}": range(5, 5 + count) for k, count in enumerate(counts)}
        facts = log["fact"].values
        met = [" ".join(map(str, times.get(fact, ()))) for fact in facts]
        log = log.assign_coords(encounters=("probe", met))
        score = log["score"].values.copy()
        for p, fact in enumerate(facts):
            if fact in times:
                score[-1, p] += slope * np.log2(len(times[fact]))
        log["score"] = (("step", "probe", "measure"), score)
        study = estimates.open_study(log, {"zipf": ()}, 3, 0, 50)
        found = claims.by_frequency(study, "zipf", "memorization").draws_RxT
        np.testing.assert_allclose(found[np.isfinite(found)], slope, atol=1e-5)
        self.assertGreater(np.isfinite(found).mean(), 0.9)
