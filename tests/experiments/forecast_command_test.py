"""The forecast command on an invented run whose law is known."""

import json

import numpy as np
import pytest

from experiments import forecast
from llm_dynamics import files, spec
from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.timetable import schedule
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

STEPS = 300
FACTS = FactsConfig(
    num_facts=24, arms=("duplication", "once", "control"), start=10, interval=20, encounters=4
)


def retained(since):
    """An encounter adds 0.6 nats, in Adam's momentum, and loses them as a power of time."""
    since = np.maximum(since, 0)
    return 0.6 * (1 - 0.9**since) * (1 + since / 10) ** -0.4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    times = schedule(FACTS)
    probes, columns = [], []
    steps_S = np.arange(STEPS + 1)
    shared_S = np.cumsum(0.02 * rng.standard_normal(STEPS + 1))
    for arm in times:
        for k in range(8):
            labels = {"fact": f"{arm}{k}", "arm": arm, "depth": "memorization", "attribute": "0"}
            probes.append(Probe(f"{arm}{k}", "a", "b", labels))
            gain_S = sum((retained(steps_S - t) for t in times[arm]), np.zeros(STEPS + 1))
            noise_S = 0.03 * rng.standard_normal(STEPS + 1)
            columns.append(-8 + shared_S + gain_S * (1 + 0.1 * rng.standard_normal()) + noise_S)
    record = {"facts": spec.to_json(FACTS), "optim": {"b1": 0.9}}
    files.write_json(
        path / "spec.json", {"spec": record, "data": {}, "parent": None, "versions": {}}
    )
    with ProbeLog(path / "probes", probes, [2] * len(probes), steps_S, steps_S * 512) as log:
        for s in steps_S:
            log.write(s, np.array([[column[s]] * len(MEASURES) for column in columns]))
    return path


def test_a_later_part_that_the_fit_has_not_seen(run, tmp_path, capsys):
    out = forecast.run(run, wanted=(4, 20, 230), until=150, out=tmp_path / "f.json")
    record = json.loads(out.read_text())
    by_arm = {row["arm"]: row for row in record["check"]}
    assert set(by_arm) == {"duplication", "once"}
    assert by_arm["duplication"]["after"] == STEPS - 70
    truth = sum(retained(STEPS - t) for t in schedule(FACTS)["duplication"])
    value, low, high = by_arm["duplication"]["forecast"]
    assert low <= truth <= high and abs(value - truth) < 0.3
    assert by_arm["duplication"]["inside"] and by_arm["once"]["inside"]
    rows = {row["name"]: row for row in record["rows"]}
    effect = rows["memorization/power/effect"]
    assert effect["low"] > 0 and effect["low"] <= 0.6 * 1.2
    assert "no threshold exists" in rows["memorization/power/threshold_steps"]["note"]
    assert "inside" in capsys.readouterr().out


def test_what_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="not a run's spec"):
        forecast.run(tmp_path)
    record = json.loads((run / "spec.json").read_text())
    record["spec"] = {"optim": {"b1": 0.9}}
    files.write_json(tmp_path / "spec.json", record)
    with pytest.raises(UserError, match="folder of a facts run"):
        forecast.run(tmp_path)
