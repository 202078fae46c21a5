"""A Zipf arm foretold by the law of the other arms, in logs that follow one law or two."""

import numpy as np
import pytest

from llm_dynamics.facts import claims, estimates
from llm_dynamics.facts.kernel import Superposition
from llm_dynamics.facts.long_tail_rows import long_tail_rows
from tests.facts.simulate import make_log
from tests.facts.simulate_law import TRUE, drift

TIMES = {"duplication": tuple(range(20, 120, 10)), "single": (20,), "every30": (20, 50, 80, 110)}
OTHERS = tuple(TIMES)
STEPS, FACTS = 260, 16


def _study(factor=1.0, template=0.0, noise=0.02, form="power", seed=1):
    """Facts of all arms follow one law; those of the Zipf arm gain `factor` times as much."""
    rng = np.random.default_rng(seed)
    schedule = {**TIMES, "zipf": (), "control": ()}
    log = make_log(schedule, STEPS, facts_per_arm=FACTS, probes_per_depth=1)
    steps_S, met = np.arange(STEPS + 1), {}
    for k in range(FACTS):
        count = max(1, round(24 / (k + 1)))
        met[f"zipf-{k}"] = tuple(sorted(rng.choice(np.arange(20, 140), count, replace=False)))
    score = log["score"].values.copy()
    walks_SxP = drift(rng, STEPS + 1, len(log["probe"]), noise)
    for p, (fact, arm) in enumerate(zip(log["fact"].values, log["arm"].values, strict=True)):
        times = met.get(fact, TIMES.get(arm, ()))
        gain_S = 0.0
        if times:
            law = np.array([TRUE[form]], float)
            gain_S = Superposition([times], steps_S[None]).gains(form, law, 0.9, 10.0)[0, 0]
        own = factor if arm == "zipf" else 1.0
        score[:, p, 0] = -6 + own * gain_S + walks_SxP[:, p] + template * steps_S / STEPS
    log["score"] = (("step", "probe", "measure"), score)
    labels = [" ".join(map(str, met.get(fact, ()))) for fact in log["fact"].values]
    log = log.assign_coords(encounters=("probe", labels))
    return estimates.open_study(log, schedule, 8, 0, 400)


def _rows(study):
    found = long_tail_rows(study, "zipf", "semantic", OTHERS, "tail")
    return {row["name"].removeprefix("tail/"): row for row in found}


@pytest.mark.parametrize("form", ["power", "logarithm"])
def test_one_law_foretells_the_tail(form):
    rows = _rows(_study(template=0.8, form=form))
    measured, predicted = rows["measured"], rows["predicted"]
    assert measured["value"] > 0.1  # nats a doubling
    assert predicted["value"] == pytest.approx(measured["value"], rel=0.1)
    apart = rows["measured-minus-predicted"]
    assert apart["value"] == pytest.approx(measured["value"] - predicted["value"])
    assert apart["low"] < 0 < apart["high"] and "not shown" in apart["note"]
    assert rows["calibration-slope"]["low"] < 1 < rows["calibration-slope"]["high"]
    assert rows["covered"]["value"] > 0.8
    assert form in predicted["definition"] and "duplication, single" in predicted["definition"]


def test_another_law_is_told_apart():
    rows = _rows(_study(factor=2.0))
    assert rows["measured-minus-predicted"]["low"] > 0
    assert rows["measured"]["value"] == pytest.approx(2 * rows["predicted"]["value"], rel=0.1)
    assert rows["calibration-slope"]["low"] > 1.5
    assert rows["covered"]["high"] < 0.95


def test_measured_slope_by_hand():
    study = _study(template=0.8, noise=0.1)
    table, gains, counts = study.table, [], []
    of = (table.labels["depth"] == "semantic") & (table.labels["arm"] == "control")
    control_S = table.loglik_SxP[:, of].mean(axis=1)
    for fact, times in study.times("zipf").items():
        (p,) = np.flatnonzero(
            (table.labels["fact"] == fact) & (table.labels["depth"] == "semantic")
        )
        own_S = table.loglik_SxP[:, p] - control_S
        gains.append(own_S[-1] - own_S[times[0]])
        counts.append(len(times))
    slope = np.polyfit(np.log2(counts), gains, 1)[0]
    assert _rows(study)["measured"]["value"] == pytest.approx(slope)


def test_claims_ask_for_it():
    roles = {"duplication": ("duplication",), "zipf": ("zipf",), "intervals": ()}
    rows = {row["name"]: row for row in claims.within_run(_study(), "run", roles)}
    for name in ("measured", "predicted", "measured-minus-predicted", "covered"):
        assert rows[f"run/semantic/long-tail/{name}"]["value"] is not None
    said = rows["run/semantic/long-tail/predicted"]["definition"]
    assert "single, every30" in said and "fitted to duplication" in said
    assert "run/semantic/long-tail" not in rows  # a slope of raw gains has the drift in it
    assert claims.null_of("run/semantic/long-tail/covered") == 0.95
    assert claims.null_of("run/semantic/long-tail/measured") == 0


@pytest.mark.slow
def test_drift_that_all_share_is_no_effect_of_frequency():
    held, said = [], []
    for seed in range(20):
        study = _study(factor=0.0, template=1.5, noise=0.1, seed=seed)
        row = _rows(study)["measured"]
        held.append(row["low"] <= 0 <= row["high"])
        said.append("not shown" in row["note"])
    assert np.mean(held) >= 0.8 and held == said
