"""The continual study: the stages that follow from a spec, and one tiny study end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import text

from experiments import continual_stages as lib
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import make_schedule


def _stages(spec, folder):
    return {stage.name: stage for stage in lib.stages(spec, folder)}


def test_every_stage_starts_from_the_run_of_its_seed(tmp_path):
    found = _stages(lib.desk(), tmp_path)
    assert len({stage.variant for stage in found.values() if stage.shift == "code"}) == 20
    for stage in found.values():
        start = stage.spec.train.start.run
        if stage.shift == "" or stage.variant in ("new", "union"):
            assert start == ""
        else:
            trunk = "trunk" if stage.variant.startswith("infinite") else "old"
            assert start == str(tmp_path / "runs" / f"{trunk}-seed{stage.seed}")
            names = list(found)
            assert names.index(Path(start).name) < names.index(stage.name)


def test_stages_of_one_seed_share_tokenizer_validation_and_model(tmp_path):
    found = list(_stages(lib.desk(), tmp_path).values())
    for key in ("tokenizer", "tokenizer_sources", "also_validate", "seed", "validation_fraction"):
        assert len({getattr(stage.spec.data, key) for stage in found}) == 1
    assert {stage.spec.seed for stage in found} == {0, 1, 2}


def test_replay_and_baselines(tmp_path):
    found = _stages(lib.laptop(), tmp_path)
    replayed = found["strong-rewarm-replay-0.05-seed1"].spec
    assert replayed.data.replay == (f"{tmp_path / 'runs' / 'old-seed1'}@0.05",)
    assert replayed.data.sources == ("wiktionary_de",)
    assert replayed.train.start.optimizer == "reset"
    union = found["strong-union-seed0"].spec
    assert union.data.sources == ("wordnet_glosses@240", "wiktionary_de@120")
    assert union.train.steps == 360
    floor = found["weak-floor-seed0"].spec
    rate = make_schedule(floor.optim.schedule, floor.train.steps)(jnp.asarray(0))
    assert float(rate) == pytest.approx(3e-4)
    same = _stages(lib.desk(), tmp_path)["code-same-seed0"].spec
    assert same.data.sources == ("wordnet_glosses",) and same.train.start.data == "continue"


def test_infinite_stages_go_on_at_the_rate_their_trunk_ended_with(tmp_path):
    found = _stages(lib.desk(), tmp_path)
    trunk, branch = found["trunk-seed0"].spec, found["weak-infinite-replay-0-seed0"].spec
    end, begin = (
        float(make_schedule(run.optim.schedule, run.train.steps)(jnp.asarray(t)))
        for run, t in ((trunk, trunk.train.steps), (branch, 0))
    )
    assert end == pytest.approx(begin) == pytest.approx(0.55 * 3e-3)
    last = make_schedule(branch.optim.schedule, branch.train.steps)(jnp.asarray(250))
    assert float(last) == pytest.approx(3e-4)
    assert branch.train.start.optimizer == "keep"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedules": "rewarn"}, "unknown 'rewarn' in schedules.*'rewarm'"),
        ({"baselines": "unions"}, "unknown 'unions' in baselines.*'union'"),
        ({"shifts": "wiktionary_de"}, "expected shifts as NAME=SOURCE"),
        ({"shifts": "old=gcide"}, "name of its own"),
        ({"replay": "0,1"}, "shares of replay from 0 to below 1, got 1"),
        ({"peaks": "0"}, "peaks above 0"),
        ({"seeds": "0"}, "at least 1"),
        ({"optimizers": ""}, "at least one each"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        specs.override(lib.smoke(), changes)


def test_four_runs_end_with_a_report(tmp_path):
    old = text.write_corpus(tmp_path / "old.jsonl", 80)
    new = text.write_corpus(tmp_path / "new.jsonl", 60, seed=1)
    folder = tmp_path / "study"
    flags = [
        "--preset=smoke",
        f"--workdir={folder}",
        f"--config.base.data.sources={old}",
        f"--config.shifts=mine={new}",
        f"--config.base.data.cache_dir={tmp_path / 'cache'}",
        "--config.base.data.tokenizer=bpe:384",
        "--config.base.model.vocab_size=384",
        "--config.base.data.validation_fraction=0.2",
        "--config.base.train.steps=32",
        "--config.steps=6",
        "--config.baselines=union",
        "--config.facts.encounters=3",
        "--config.base.data.length=320",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.continual", *flags],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    for name in ("old/forgetting", "old/transient_peak", "adaptation", "gap_total"):
        row = rows[f"mine/rewarm-replay-0.25/{name}"]
        assert row["value"] is not None and row["n"] == 1 and "one seed" in row["note"]
    loss = {
        where: rows[f"mine/rewarm-replay-0.25/{where}/loss"]["value"] for where in ("old", "mine")
    }
    average = rows["mine/rewarm-replay-0.25/average"]["value"]
    assert average == pytest.approx(sum(loss.values()) / 2)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "New data without losing the old" in page and "What was read" in page
    record = json.loads((folder / "runs/mine-rewarm-replay-0.25-seed0/spec.json").read_text())
    ledger = record["data"]["ledger"]
    # 6 steps of 8 rows, a quarter of them replayed.
    assert sum(part["replayed"] + part["repeated"] for part in ledger.values()) >= 12 * 320
    assert sum(sum(part.values()) for part in ledger.values()) == 48 * 320
