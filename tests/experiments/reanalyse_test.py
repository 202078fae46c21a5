"""The command on a run of ours and on a published file, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import reanalyse
from llm_dynamics import files, spec
from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

FACTS = FactsConfig(
    num_facts=8, arms=("duplication", "once", "control"), start=3, interval=20, encounters=2
)


def make_run(path, facts=FACTS, steps=80):
    """A run folder with an invented log: what is injected rises by 2 nats and fades."""
    rng = np.random.default_rng(0)
    arms = ["duplication"] * 3 + ["once"] * 3 + ["control"] * 2
    probes, last = [], {"duplication": 23, "once": 3, "control": 999}
    for k, arm in enumerate(arms):
        for depth in ("memorization", "semantic"):
            labels = {"fact": f"f{k}", "arm": arm, "depth": depth, "attribute": "0"}
            probes.append(Probe(f"f{k}/{depth}", "a", "b", labels))
    steps_S = np.arange(steps + 1)
    files.write_json(
        path / "spec.json",
        {
            "spec": {
                "facts": spec.to_json(facts),
                "model": spec.to_json(ModelConfig(vocab_size=64)),
                "optim": {"b1": 0.9},
            },
            "data": {},
            "parent": None,
            "versions": {},
        },
    )
    with ProbeLog(path / "probes", probes, [2] * len(probes), steps_S, steps_S * 512) as log:
        for s in steps_S:
            rows = np.zeros((len(probes), len(MEASURES)))
            for p, probe in enumerate(probes):
                since = s - last[probe.labels["arm"]]
                gain = 2 * (1 - 0.3 * np.log10(since)) if since > 0 else 0
                rows[p] = gain - 8 + 0.01 * rng.standard_normal()
            log.write(s, rows)
    return path


def test_a_run_of_ours(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    files.write_json(
        run / "results.json",
        [{"name": "duplication/memorization/decay/published/a", "low": 0.1, "high": 0.5}],
    )
    written = reanalyse.run(run, None, None, "1.5", 1)
    assert written == run / "paper.json"
    record = json.loads(written.read_text())
    assert (record["window"], record["outliers"]) == (20, 1.5)  # no longer than the interval
    cells = {(c["arm"], c["depth"]): c for c in record["cells"]}
    assert len(cells) == 6
    cell = cells["duplication", "memorization"]
    assert cell["encounters"] == cells["control", "memorization"]["encounters"] == [3, 23]
    assert cell["decay"]["a"] == pytest.approx(0.3, abs=0.05)  # of t + 1, so a little less
    assert cell["tokens_per_step"] == 512
    assert cell["x_intercept_tokens"] == pytest.approx(cell["x_intercept_steps"] + np.log10(512))
    assert len(cell["curve"]) == 80 - (23 + 20) + 1
    verdicts = {row["name"]: row["verdict"] for row in record["comparison"]}
    assert verdicts["duplication/memorization/sign_of_a"] == "shown: 0.1 to 0.5, as published"
    printed = capsys.readouterr().out
    assert f"{cell['effectivity']:.3f}" in printed
    assert f"{cell['decay']['a']:.3f}" in printed
    assert "control: never injected" in printed
    assert "not verified" in printed
    # The run's intervals belong to the paper's factor; another one has none.
    other = reanalyse.run(run, tmp_path / "out", None, "none", 1)
    verdicts = {row["name"]: row["verdict"] for row in json.loads(other.read_text())["comparison"]}
    assert "no interval" in verdicts["duplication/memorization/sign_of_a"]


def write_published(path, steps=980):
    """A published log of ten passages, all in the paraphrase arm."""
    rng = np.random.default_rng(1)
    kinds = [f"{p}_{k}" for p in ("mem", "gen", "gen_hard") for k in ("first", "target", "full")]
    records = [
        {"step": s} | {kind: rng.uniform(4, 5, (10, 1)).tolist() for kind in kinds}
        for s in range(steps)
    ]
    path.write_text(json.dumps(records))
    return path


def test_a_published_log(tmp_path, capsys):
    path = write_published(tmp_path / "experiments_step1.json")
    written = reanalyse.run(path, tmp_path / "out", None, "2.0", 262_144)
    record = json.loads(written.read_text())
    assert (record["window"], record["outliers"]) == (50, 2.0)
    assert {cell["arm"] for cell in record["cells"]} == {"paraphrase"}
    assert {len(cell["curve"]) for cell in record["cells"]} == {980 - 950}
    assert {cell["tokens_per_step"] for cell in record["cells"]} == {262_144}
    assert "paraphrase   memorization" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.reanalyse", f"--log={tmp_path}/absent"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: expected a run folder or a published JSON log at {tmp_path}/absent, got nothing\n"
    )


@pytest.mark.parametrize(
    ("log", "window", "message"),
    [
        ("", None, "spec.json is not a run's spec"),
        ("notes.txt", None, "holds spec.json and probes/"),
        ("run", 30, "at most 20 steps"),
        ("run", 0, "at least 1 step"),
    ],
)
def test_what_cannot_work(tmp_path, log, window, message):
    if log == "run":
        make_run(tmp_path / "run")
    (tmp_path / "notes.txt").write_text("no log")
    with pytest.raises(UserError, match=message):
        reanalyse.run(tmp_path / log, None, window, "1.5", 1)
    assert not list(tmp_path.rglob("paper.json"))


def test_damaged_results_and_runs_of_another_study(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "results.json").write_text("{")
    with pytest.raises(UserError, match="results of the run"):
        reanalyse.run(run, None, None, "1.5", 1)
    record = {"spec": {"model": {}}, "data": {}, "parent": None, "versions": {}}
    files.write_json(tmp_path / "other" / "spec.json", record)
    with pytest.raises(UserError, match="run folder of a facts study"):
        reanalyse.run(tmp_path / "other", None, None, "1.5", 1)
