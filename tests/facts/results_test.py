"""Numbers from synthetic logs whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts import curves, estimates, results
from llm_dynamics.probe import log as log_lib
from llm_dynamics.probe.probes import Probe
from tests.facts.simulate import make_log

TIMES = (20, 70, 120)
SCHEDULE = {"duplication": TIMES, "paraphrase": TIMES, "once": TIMES[:1], "control": ()}
WINDOW = 30


def by_name(rows):
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def noisy():
    log = make_log(
        SCHEDULE,
        500,
        facts_per_arm=14,
        gains={"duplication": (1.5, 0.3), "paraphrase": (0.7, 0.1)},
        shared=1.0,
        noise=0.1,
        fact_spread=0.2,
    )
    return by_name(results.compute(log, SCHEDULE, WINDOW, resamples=400)), log


def test_every_row_is_complete_and_json(noisy):
    rows, _ = noisy
    json.dumps(list(rows.values()), allow_nan=False)
    for row in rows.values():
        assert set(row) == {"name", "value", "low", "high", "unit", "n", "definition", "note"}
        assert row["value"] is not None or row["note"], row
        assert row["low"] is not None or row["note"], row
        if row["low"] is not None:
            assert row["low"] <= row["high"] and row["n"] == 14, row


def test_subtraction_removes_what_the_control_shares(noisy):
    """Shared template gain and the upward bias of the maximum are in raw, not in the difference."""
    rows, _ = noisy
    at = "once/memorization/effectivity/"
    assert rows[at + "raw"]["value"] > 1.9
    assert rows[at + "control"]["value"] > 0.95  # of never-injected facts
    assert rows[at + "subtracted"]["low"] < 1.0 < rows[at + "subtracted"]["high"]
    share = rows["once/memorization/effectivity/control_share"]
    assert share["low"] < 0.5 < share["high"] and share["note"] == ""
    assert rows["once/memorization/effectivity/published"]["value"] > 1.9
    raw, null, less = (
        rows[f"duplication/semantic/gain_at_end/{form}"]["value"]
        for form in ("raw", "control", "subtracted")
    )
    assert less == pytest.approx(raw - null)


def test_null_control_has_positive_raw_and_no_subtracted_effectivity():
    gains = dict.fromkeys(SCHEDULE, (0.0, 0.1))
    log = make_log(SCHEDULE, 300, facts_per_arm=20, gains=gains, noise=0.3)
    rows = by_name(results.compute(log, SCHEDULE, WINDOW, resamples=300))
    for arm in ("duplication", "paraphrase", "once"):
        at = f"{arm}/memorization/effectivity/"
        assert rows[at + "published"]["low"] > 0.4  # the maximum over noise
        null, less = rows[at + "published_control"], rows[at + "published_subtracted"]
        assert null["low"] > 0.4 and "noise alone" in null["definition"]
        assert less["low"] < 0.05 and abs(less["value"]) < 0.1
        for row in (null, less):
            assert "docs/statistics.md" in row["note"] and "values kept" in row["note"]
        for form in ("raw", "control", "subtracted"):
            found = rows[at + form]
            assert abs(found["value"]) < 0.15 and found["low"] < 0.05, (at, form)
    unclear = [
        f"{arm}/{depth}"
        for arm in ("duplication", "paraphrase", "once")
        for depth in ("memorization", "semantic", "compositional")
        if rows[f"{arm}/{depth}/gain_at_last_maximum/subtracted"]["low"] <= 0
    ]
    assert unclear
    for cell in unclear:
        assert "means little" in rows[f"{cell}/retainability/subtracted/10"]["note"]


def test_published_effectivity_of_the_control_by_hand(noisy):
    """The maximum of each probe, from the log by loops; each arm's outliers by themselves."""
    rows, log = noisy
    means = {}
    for arm in ("duplication", "control"):
        cell = ((log["arm"] == arm) & (log["depth"] == "semantic")).values
        loglik_SxP = log["score"].sel(measure="logprob_mean").values[:, cell].astype(float)
        gains = np.array(
            [loglik_SxP[t + 1 : t + WINDOW + 1].max(axis=0) - loglik_SxP[t] for t in TIMES]
        )
        low, high = np.percentile(gains, [25, 75])
        means[arm] = gains[abs(gains - (low + high) / 2) <= 2 * (high - low)].mean()
    at = "duplication/semantic/effectivity/published"
    assert rows[at]["value"] == pytest.approx(means["duplication"])
    assert rows[at + "_control"]["value"] == pytest.approx(means["control"])
    less = means["duplication"] - means["control"]
    assert rows[at + "_subtracted"]["value"] == pytest.approx(less)
    assert rows[at + "_subtracted"]["low"] < less < rows[at + "_subtracted"]["high"]


def test_retainability_by_hand(noisy):
    """Both forms of R at one t, from the log by loops over probes."""
    rows, log = noisy
    lag = estimates.open_study(log, SCHEDULE, WINDOW, 0, 1).lag
    t, gains, at_lag = 30, {}, {}
    for arm in ("duplication", "control"):
        cell = ((log["arm"] == arm) & (log["depth"] == "semantic")).values
        loglik_SxP = log["score"].sel(measure="logprob_mean").values[:, cell].astype(float)
        at_lag[arm] = (loglik_SxP[[120 + lag, 120 + lag + t]] - loglik_SxP[20]).mean(axis=1)
        gains[arm] = []
        for series_S in loglik_SxP.T:
            best = 121 + int(np.argmax(series_S[121 : 121 + WINDOW]))
            gains[arm].append((series_S[best] - series_S[20], series_S[best + t] - series_S[20]))
        gains[arm] = np.array(gains[arm])
    now, later = (at_lag["duplication"] - at_lag["control"]).tolist()
    at = "duplication/semantic/retainability"
    assert rows[f"{at}/subtracted/{t}"]["value"] == pytest.approx(later / now)
    ratios = gains["duplication"][:, 1] / gains["duplication"][:, 0]
    low, high = np.percentile(ratios, [25, 75])
    kept = ratios[abs(ratios - (low + high) / 2) <= 2 * (high - low)]  # Q1 - 1.5 IQR .. Q3 + 1.5
    assert len(kept) < len(ratios)
    assert rows[f"{at}/published/{t}"]["value"] == pytest.approx(kept.mean())


def test_known_decay_is_recovered_and_extrapolation_flagged():
    """R = 1 - a log10 t exactly, from a single encounter without noise or rise."""
    schedule = {"once": (0,), "control": ()}
    log = make_log(
        schedule, 1000, facts_per_arm=5, gains={"once": (1.0, 0.25)}, tokens_per_step=1000
    )
    steps_S = np.arange(1001)
    curve_S = np.where(steps_S > 0, 1 - 0.25 * np.log10(np.maximum(steps_S - 1, 1)), 0)
    once = (log["arm"] == "once").values
    score = log["score"].values.copy()
    score[:, once, 0] = -5 + curve_S[:, None]
    score[:, ~once, 0] = -5
    log["score"].values[:] = score
    for form in ("published", "subtracted"):
        rows = by_name(results.compute(log, schedule, 1, resamples=50))
        at = f"once/memorization/decay/{form}/"
        assert rows[at + "a"]["value"] == pytest.approx(0.25, abs=1e-6)
        assert rows[at + "r2"]["value"] == pytest.approx(1, abs=1e-6)
        assert rows[at + "x_intercept_steps"]["value"] == pytest.approx(4, abs=1e-4)
        assert rows[at + "x_intercept_tokens"]["value"] == pytest.approx(7, abs=1e-4)
        for unit, end in (("steps", 3), ("tokens", 6)):
            said = f"extrapolated by 1.0 decades beyond the data; the data end at log10 t = {end}"
            assert said in rows[at + f"x_intercept_{unit}"]["note"]
        r = rows[f"once/memorization/retainability/{form}/100"]["value"]
        assert r == pytest.approx(0.5, abs=1e-6)


def test_orderings_say_what_is_not_shown(noisy):
    rows, _ = noisy
    clear = rows["ordering/duplication-minus-paraphrase/memorization/gain_at_last_maximum"]
    assert clear["low"] > 0 and clear["note"] == ""
    depth = rows["ordering/duplication/memorization-minus-semantic/effectivity"]
    assert depth["low"] > 0  # paired over facts
    same = make_log(SCHEDULE, 300, facts_per_arm=10, noise=0.2, fact_spread=0.3, seed=1)
    found = by_name(results.compute(same, SCHEDULE, WINDOW, resamples=200))
    row = found["ordering/duplication-minus-paraphrase/memorization/gain_at_last_maximum"]
    assert row["low"] < 0 < row["high"] and row["note"].startswith("not shown")
    assert not any(name.startswith("ordering") and "control" in name for name in found)


def test_final_state(noisy):
    rows, log = noisy
    cell = ((log["arm"] == "once") & (log["depth"] == "semantic")).values
    last = log["score"].isel(step=-1, probe=cell)
    row = rows["once/semantic/final_accuracy"]
    assert row["value"] == pytest.approx(float(last.sel(measure="greedy_match").mean()))
    assert row["note"] == "guessing within the closed answer sets: 0.0250"
    rank = float(np.exp(np.log(last.sel(measure="rank_first").values.astype(float)).mean()))
    assert rows["once/semantic/final_rank"]["value"] == pytest.approx(rank)
    assert "control/semantic/final_rank" in rows


def test_same_log_same_numbers(noisy):
    rows, log = noisy
    assert by_name(results.compute(log, SCHEDULE, WINDOW, resamples=400)) == rows
    moved = by_name(results.compute(log, SCHEDULE, WINDOW, resamples=400, seed=1))
    name = "once/semantic/gain_at_end/raw"
    assert moved[name]["value"] == rows[name]["value"] and moved[name]["low"] != rows[name]["low"]


def test_without_control_and_with_one_fact():
    schedule = {"duplication": TIMES, "once": TIMES[:1]}
    log = make_log(schedule, 200, facts_per_arm=1)
    rows = by_name(results.compute(log, schedule, WINDOW, resamples=20))
    missing = rows["once/memorization/gain_at_end/subtracted"]
    assert missing["value"] is None and "no never-injected control" in missing["note"]
    for form in ("published_control", "published_subtracted"):
        missing = rows[f"once/memorization/effectivity/{form}"]
        assert missing["value"] is None and "no never-injected control" in missing["note"]
    single = rows["once/memorization/gain_at_end/raw"]
    assert single["value"] is not None and single["low"] is None and "one fact" in single["note"]
    drawn = curves.compute_curves(log, schedule, WINDOW)
    assert {c.kind for c in drawn.trajectories} == {"raw"}
    assert np.isnan(drawn.trajectories[0].low_S).all()


def test_cadence_that_is_sparse_outside_the_windows(noisy):
    _, log = noisy
    dense = {s for t in TIMES for s in range(t, t + WINDOW + 1)}
    later = set(np.unique(np.rint(150 + 10 ** np.arange(0, 2.55, 0.05)).astype(int)))
    keep = sorted(dense | later | {0, 500})
    sparse = by_name(results.compute(log.sel(step=keep), SCHEDULE, WINDOW, resamples=50))
    full = by_name(results.compute(log, SCHEDULE, WINDOW, resamples=50))
    name = "duplication/memorization/effectivity/subtracted"
    assert sparse[name]["value"] == full[name]["value"]
    row = sparse["duplication/memorization/decay/subtracted/a"]
    assert "interpolated" in row["note"]
    assert row["value"] == pytest.approx(
        full["duplication/memorization/decay/subtracted/a"]["value"], abs=0.02
    )
    with pytest.raises(UserError, match=r"probe\.every=1"):
        results.compute(log.sel(step=[s for s in keep if s != 25]), SCHEDULE, WINDOW)


def test_unusable_logs(noisy):
    _, log = noisy
    with pytest.raises(UserError, match="encounter steps of arm 'paraphrase'"):
        results.compute(log, {"duplication": TIMES, "once": (20,)}, WINDOW)
    with pytest.raises(UserError, match="end at or after step 150"):
        results.compute(log.sel(step=slice(0, 149)), SCHEDULE, WINDOW)
    with pytest.raises(UserError, match="label 'arm'"):
        results.compute(log.drop_vars("arm"), SCHEDULE, WINDOW)
    broken = log.copy(deep=True)
    broken["score"].values[60, 7, 0] = np.nan
    with pytest.raises(UserError, match=f"{log['probe'].values[7]}.*at step 60"):
        results.compute(broken, SCHEDULE, WINDOW)
    with pytest.raises(UserError, match="empty"):
        results.compute(xr.full_like(log, np.nan), SCHEDULE, WINDOW)


def test_rows_that_were_never_written_are_left_out(noisy):
    _, log = noisy
    longer = log.copy(deep=True)
    longer["score"].values[-100:] = np.nan
    found = by_name(results.compute(longer, SCHEDULE, WINDOW, resamples=50))
    short = by_name(results.compute(log.sel(step=slice(0, 400)), SCHEDULE, WINDOW, resamples=50))
    assert found == short


def test_rows_lost_before_the_last_one_are_refused(noisy):
    _, log = noisy
    holed = log.copy(deep=True)
    holed["score"].values[64:96] = np.nan
    with pytest.raises(UserError, match=r"step 500, got 32 that are empty \(the first is step 64"):
        results.compute(holed, SCHEDULE, WINDOW, resamples=50)


def test_reads_the_log_of_a_run(tmp_path):
    made = make_log({"once": (0,), "control": ()}, 20, facts_per_arm=2, probes_per_depth=1)
    keys = ("fact", "arm", "depth", "attribute", "candidates")
    probes = [
        Probe(name, "a", "b", {key: str(made[key].values[p]) for key in keys})
        for p, name in enumerate(made["probe"].values)
    ]
    steps, tokens = made["step"].values, made["tokens"].values
    with log_lib.ProbeLog(tmp_path / "probes", probes, [1] * len(probes), steps, tokens) as log:
        for step in steps:
            log.write(int(step), made["score"].values[step])
    opened = log_lib.open_log(tmp_path / "probes")
    schedule = {"once": (0,), "control": ()}
    assert results.compute(opened, schedule, 10, resamples=20) == results.compute(
        made, schedule, 10, resamples=20
    )


def test_curves_agree_with_results(noisy):
    rows, log = noisy
    drawn = curves.compute_curves(log, SCHEDULE, WINDOW, resamples=400)
    pick = {(c.arm, c.depth, c.kind): c for c in drawn.trajectories}
    assert len(pick) == 3 * 3 * 2 + 3  # three arms, three depths, raw and difference; control
    for kind, form in (("raw", "raw"), ("difference", "subtracted")):
        curve = pick["paraphrase", "semantic", kind]
        row = rows[f"paraphrase/semantic/gain_at_end/{form}"]
        got = (curve.mean_S[-1], curve.low_S[-1], curve.high_S[-1])
        np.testing.assert_allclose(got, (row["value"], row["low"], row["high"]))
        assert curve.mean_S[20] == 0 and len(curve.steps_S) == 501 and curve.n == 14
    retained = {(c.arm, c.depth, c.kind): c for c in drawn.retainability}
    for kind, form in (("raw", "published"), ("difference", "subtracted")):
        curve = retained["once", "memorization", kind]
        assert curve.mean_S[0] == 1
        row = rows[f"once/memorization/retainability/{form}/30"]
        np.testing.assert_allclose(curve.mean_S[30], row["value"])
    fit = next(f for f in drawn.fits if (f.arm, f.depth, f.kind) == ("once", "semantic", "raw"))
    row = rows["once/semantic/decay/published/a"]
    assert fit.slope == pytest.approx(-row["value"])
    assert (fit.first, fit.last) == (1, 450)
    gain = next(g for g in drawn.gains if (g.arm, g.kind) == ("duplication", "difference"))
    row = rows["duplication/memorization/gain_at_last_maximum/subtracted"]
    assert dataclasses.astuple(gain)[3:6] == (row["value"], row["low"], row["high"])
