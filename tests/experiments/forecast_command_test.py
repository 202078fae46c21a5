"""The forecast command on an invented run whose law is known."""

import json

import numpy as np
import pytest

from experiments import forecast
from llm_dynamics import files, spec
from llm_dynamics.errors import UserError
from llm_dynamics.facts import estimates
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.timetable import resolve_window, schedule
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

STEPS = 300
TOKENS = 512  # of a step
FACTS = FactsConfig(
    num_facts=32,
    arms=("duplication", "paraphrase", "once", "control"),
    start=10,
    interval=20,
    encounters=4,
)
EFFECT = {"duplication": 0.6, "once": 0.6, "paraphrase": 0.2}


def retained(since):
    """What is left of one nat, added in Adam's momentum and lost as a power of time."""
    since = np.maximum(since, 0)
    return (1 - 0.9**since) * (1 + since / 10) ** -0.4


def gained(arm, step):
    """The gain of an arm before an update."""
    return EFFECT[arm] * sum(retained(step - t) for t in schedule(FACTS)[arm])


def make_run(path, matched=False, of_a_set=0.0):
    """A run of eight facts an arm; those of one rank share a drift, and a set if matched."""
    rng = np.random.default_rng(0)
    times = schedule(FACTS)
    probes, columns = [], []
    steps_S = np.arange(STEPS + 1)
    shared_S = np.cumsum(0.02 * rng.standard_normal(STEPS + 1))
    set_KxS = of_a_set * np.cumsum(rng.standard_normal((8, STEPS + 1)), axis=1) / 10
    for arm in times:
        for k in range(8):
            labels = {"fact": f"{arm}{k}", "arm": arm, "depth": "memorization", "attribute": "0"}
            labels |= {"set": str(k)} if matched else {}
            probes.append(Probe(f"{arm}{k}", "a", "b", labels))
            gain_S = gained(arm, steps_S) if times[arm] else np.zeros(STEPS + 1)
            noise_S = 0.03 * rng.standard_normal(STEPS + 1) + set_KxS[k]
            columns.append(-8 + shared_S + gain_S * (1 + 0.1 * rng.standard_normal()) + noise_S)
    record = {"facts": spec.to_json(FACTS), "optim": {"b1": 0.9}}
    files.write_json(
        path / "spec.json", {"spec": record, "data": {}, "parent": None, "versions": {}}
    )
    with ProbeLog(path / "probes", probes, [2] * len(probes), steps_S, steps_S * TOKENS) as log:
        for s in steps_S:
            log.write(s, np.array([[column[s]] * len(MEASURES) for column in columns]))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def checked(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "f.json"
    forecast.run(run, wanted=(4, 20, 230), level=0.1, until=150, out=out, every_tokens=1e5)
    return json.loads(out.read_text())


def test_a_later_part_that_the_fit_has_not_seen(checked):
    rows = {(row["arm"], row["step"]): row for row in checked["check"]}
    assert set(rows) == {(arm, step) for arm in EFFECT for step in (188, 225, 263, 300)}
    for (arm, step), row in rows.items():
        truth = gained(arm, step)
        value, low, high = row["forecast"]
        assert low <= truth <= high and abs(value - truth) < 0.3
        assert row["inside"], row
        assert row["after"] == step - schedule(FACTS)[arm][-1]
        value, low, high = row["difference"]
        assert low <= value <= high and row["difference_shown"] == (low > 0 or high < 0)
        assert value == pytest.approx(row["measured"][0] - row["forecast"][0], abs=1e-9)
    # The facts are the same before and after, so their spread is not in the difference.
    early = rows["duplication", 188]
    widths = [early[key][2] - early[key][1] for key in ("difference", "measured")]
    assert widths[0] < 0.7 * widths[1]
    assert rows["duplication", 300]["decades"] == pytest.approx(np.log10(290 / 140))
    assert "inside the interval of the law: 12 of 12" in checked["summary"][0]
    assert "forecast 0.0" in checked["summary"][1]


def test_a_law_for_each_wording_says_its_arms(checked):
    assert [(one["law"], one["arms"]) for one in checked["laws"]] == [
        ("same", ["duplication", "once"]),
        ("paraphrase", ["paraphrase"]),
    ]
    assert checked["laws"][0]["facts"] == {"duplication": 8, "once": 8, "control": 8}
    rows = {row["name"]: row for row in checked["rows"]}
    for name, arm in (("same", "duplication"), ("paraphrase", "paraphrase")):
        effect = rows[f"{name}/memorization/power/effect"]
        # Scaled to its best moment, an encounter adds less than the law's factor.
        most = EFFECT[arm] * retained(np.arange(100)).max()
        assert effect["low"] <= most * 1.1 and most * 0.9 <= effect["high"]
    assert rows["paraphrase/memorization/power/effect"]["high"] < 0.2
    assert (
        "fitted to duplication, once less control"
        in (rows["same/memorization/power/effect"]["definition"])
    )
    assert (
        "fitted to paraphrase less control"
        in (rows["paraphrase/memorization/any_form/gain_mean/4x20+230"]["definition"])
    )
    assert "no threshold exists" in rows["same/memorization/power/threshold_steps"]["note"]


def test_arms_of_choice_share_one_law(run, tmp_path, capsys):
    out = forecast.run(run, out=tmp_path / "f.json", arms=["paraphrase", "duplication"])
    record = json.loads(out.read_text())
    assert record["laws"][0]["arms"] == ["paraphrase", "duplication"] and len(record["laws"]) == 1
    assert all(row["name"].startswith("paraphrase+duplication/") for row in record["rows"])
    assert record["check"] == record["summary"] == []
    said = capsys.readouterr().out
    assert "fitted up to step 300 to paraphrase (8 facts), duplication (8 facts)" in said


def test_which_batch_keeps_a_level(checked):
    rows = {row["name"]: row for row in checked["rows"]}
    at = "same/memorization/logarithm/keep_0.1"
    steps, batch = rows[f"{at}/interval_steps"], rows[f"{at}/batch"]
    assert batch["value"] == pytest.approx(1e5 / steps["value"]) and batch["unit"] == "tokens"
    assert "met once in 100000 tokens" in batch["definition"]
    assert "independent of the batch size (the log has 512 tokens a step)" in batch["note"]
    # Under the power law the steady state is far off, and every interval that is tried keeps it.
    every = rows["same/memorization/power/keep_0.1/batch"]
    assert f"every batch tried keeps it, down to {1e5 / 140e3:.3g} tokens" in every["note"]


def test_matched_facts_are_resampled_in_sets(tmp_path):
    """What a set shares cancels in every replicate of the law, as it does in the data."""
    widths, effects = {}, {}
    for matched in (False, True):
        path = make_run(tmp_path / str(matched), matched, of_a_set=1.0)
        window = resolve_window(FACTS, 0.9)
        log = open_log(path / "probes")
        study = estimates.open_study(log, schedule(FACTS), window, 0, 50)
        arms = ("duplication", "once")
        found = forecast.law(study, "same", arms, "memorization", 0.9, 0)
        effect = found.kernels[0].parameter("effect").interval()
        widths[matched] = float(effect.high[0] - effect.low[0])
        effects[matched] = float(effect.value[0])
    assert effects[True] == pytest.approx(effects[False])
    assert widths[True] < widths[False] / 3
    for arm in ("once", "control"):
        np.testing.assert_array_equal(study.weights[arm], study.weights["duplication"])


def test_a_rate_that_changes_is_warned_of(run, tmp_path, capsys):
    path = tmp_path / "run"
    make_run(path)
    lines = [json.dumps({"step": s, "learning_rate": 1e-3 / (s + 1)}) for s in range(STEPS)]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    folder = forecast.RunFolder(path)
    assert "goes from 0.000333 to 0.0001 over the fitted steps 2 to 9" in (
        forecast.rate_caution(folder, 2, 9)
    )
    assert forecast.rate_caution(folder, 299, 299) == ""
    assert forecast.rate_caution(forecast.RunFolder(run), 0, 299) == ""
    out = forecast.run(path, arms=["once"])
    assert "caution: the learning rate" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["cautions"]) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"arms": ["control"]}, "--arms among duplication, paraphrase, once, got 'control'"),
        ({"until": 300}, "before the last step of the log, 300, got 300"),
        ({"until": -1}, "above 0"),
        ({"depth": "semantic"}, "depth of memorization, got 'semantic'"),
        ({"arms": ["once"], "every_tokens": 0.0}, "every_tokens above 0, got 0"),
    ],
)
def test_bad_settings(run, settings, message):
    with pytest.raises(UserError, match=message):
        forecast.run(run, **settings)


def test_what_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="not a run's spec"):
        forecast.run(tmp_path)
    record = json.loads((run / "spec.json").read_text())
    record["spec"] = {"optim": {"b1": 0.9}}
    files.write_json(tmp_path / "spec.json", record)
    with pytest.raises(UserError, match="folder of a facts run"):
        forecast.run(tmp_path)
