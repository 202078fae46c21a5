"""The claims study: the runs that follow from a spec, and three tiny ones end to end."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import text

from experiments import claims
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError


def test_every_run_changes_what_its_name_says(tmp_path):
    planned = claims.runs(claims.desk(), tmp_path)
    assert len(planned) == 17 and set(claims.FACTORS) < set(planned)
    head = specs.to_json(planned["size-pocket-0.3m"])
    changed = {
        name: {line.split(":")[0] for line in specs.difference(head, specs.to_json(run))}
        for name, run in planned.items()
    }
    assert changed["size-pocket-0.3m"] == set()
    assert all(key.startswith("model.") for key in changed["size-pocket-3m"])
    assert changed["rate-triple"] == {"optim.schedule.peak"}
    assert changed["constant-rate"] == {"optim.schedule.kind"}
    assert changed["decay-none"] == {"optim.weight_decay"}
    assert changed["corpus-duplicated"] == {"data.copies", "data.copied_share"}
    assert changed["corpus-deduplicated"] == {"data.near_duplicates"}
    assert changed["batch-quarter"] == {"data.batch_size"}
    assert changed["seed-1"] == {"seed", "data.seed", "facts.rotation"}
    keep, reset = planned["optimizer-keep"], planned["optimizer-reset"]
    assert dataclasses.replace(keep, train=reset.train) == reset
    assert (keep.train.start.optimizer, reset.train.start.optimizer) == ("keep", "reset")
    # The facts are met at the same updates, counted from the parent's beginning.
    late = [
        next(a for a in run.facts.treatments if a.name == "late")
        for run in (reset, planned["size-pocket-0.3m"])
    ]
    assert late[0].start + reset.train.start.step == late[1].start


def test_roles_are_found_by_name():
    asked = claims.roles(claims.desk().base.facts)
    assert asked["intervals"] == ("every10", "duplication", "every40")
    assert asked["late"] == ("late",) and asked["zipf"] == ("zipf",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": "rate-tripel"}, "unknown run 'rate-tripel'.*'rate-triple'"),
        ({"seeds": "0"}, "at least one size and one seed"),
        ({"base.facts.arms": "once"}, "expected arms duplication and control"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        specs.override(claims.smoke(), changes)


def test_three_runs_end_with_results_and_a_report(tmp_path):
    corpus, folder = text.write_corpus(tmp_path / "corpus.jsonl", 80), tmp_path / "study"
    flags = [
        "--preset=smoke",
        f"--workdir={folder}",
        "--config.factors=optimizer-keep,optimizer-reset",
        "--config.seeds=1",
        "--config.resamples=50",
        "--config.share_after=5",
        f"--config.base.data.sources={corpus}",
        f"--config.base.data.cache_dir={tmp_path / 'cache'}",
        "--config.base.data.tokenizer=bpe:384",
        "--config.base.model.vocab_size=384",
        "--config.base.data.validation_fraction=0",
        "--config.base.data.length=320",
        "--config.base.data.batch_size=8",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.claims", *flags],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(folder / "report.html") in done.stdout
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    kept = rows["optimizer-reset-minus-optimizer-keep/memorization/gain"]
    assert kept["n"] == 3 and kept["low"] <= kept["value"] <= kept["high"]
    assert "size-pocket-0.1m/memorization/accumulation/every4" in rows
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What encounters add builds up" in page and "<svg" in page
    assert "| size-pocket-0.1m/memorization/inflation |" in (folder / "results.md").read_text()
    parent = json.loads((folder / "runs" / "optimizer-keep" / "spec.json").read_text())["parent"]
    assert parent["step"] == 8
