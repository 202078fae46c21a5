"""The continual study: the stages that follow from a spec, and one tiny study end to end."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import text

from experiments import continual
from experiments import continual_stages as lib
from experiments.continual_spec import SPLITS
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import make_schedule

UNDECAYED = ("infinite", "invsqrt", "wsd")


def _stages(spec, folder):
    return {stage.name: stage for stage in lib.stages(spec, folder)}


def _rate(run, step):
    return float(make_schedule(run.optim.schedule, run.train.steps)(jnp.asarray(step)))


def test_every_stage_starts_from_the_run_of_its_seed(tmp_path):
    found = _stages(lib.desk(), tmp_path)
    names = list(found)
    assert {"infinite-replay-0", "invsqrt-replay-0", "wsd-replay-0.05", "union_update"} <= {
        stage.variant for stage in found.values() if stage.shift == "code"
    }
    for stage in found.values():
        start = stage.spec.train.start.run
        if stage.shift in ("", SPLITS):
            continue
        if stage.variant in ("new", "union", "union_update"):
            assert start == ""
        else:
            kind = stage.variant.partition("-")[0]
            first = f"trunk-{kind}" if kind in UNDECAYED else "old"
            assert start == str(tmp_path / "runs" / f"{first}-seed{stage.seed}")
            assert names.index(Path(start).name) < names.index(stage.name)


def test_stages_of_one_seed_share_tokenizer_validation_and_model(tmp_path):
    found = list(_stages(lib.desk(), tmp_path).values())
    for key in ("tokenizer", "tokenizer_sources", "seed", "validation_fraction"):
        assert len({getattr(stage.spec.data, key) for stage in found}) == 1
    every = ("wordnet_glosses", "gcide", "wiktionary_de", "stdlib_code")
    validated = {"": every, "weak": every[:2], "strong": every[:3:2], SPLITS: every[:1]}
    for stage in found:
        if stage.shift in validated:
            wanted = every if stage.everywhere else validated[stage.shift]
            assert stage.spec.data.also_validate == wanted
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
    assert _rate(found["weak-floor-seed0"].spec, 0) == pytest.approx(3e-4)


def test_a_union_at_the_cost_of_the_update_ends_its_own_schedule(tmp_path):
    spec = dataclasses.replace(lib.laptop(), baselines=("union", "union_update"))
    found = _stages(spec, tmp_path)
    update, union = (found[f"weak-{name}-seed0"].spec for name in ("union_update", "union"))
    assert update.train.steps == 120 and update.data.sources == union.data.sources
    assert _rate(update, 120) == pytest.approx(3e-4)
    assert update.train.start.run == ""


def test_the_old_data_again_is_one_run_for_all_shifts(tmp_path):
    spec = dataclasses.replace(lib.laptop(), baselines=("same",))
    found = [stage for stage in lib.stages(spec, tmp_path) if stage.variant == "same"]
    assert [stage.name for stage in found] == ["same-seed0", "same-seed1", "same-seed2"]
    assert all(stage.everywhere for stage in found)
    data, start = found[0].spec.data, found[0].spec.train.start
    assert data.sources == ("wordnet_glosses",) and start.data == "continue"


@pytest.mark.parametrize(("kind", "rate"), [("infinite", 0.55), ("invsqrt", 0.55), ("wsd", 1.0)])
def test_stages_from_a_trunk_go_on_at_the_rate_it_ended_with(tmp_path, kind, rate):
    spec = dataclasses.replace(lib.laptop(), schedules=("rewarm", *UNDECAYED), steps=100)
    found = _stages(spec, tmp_path)
    trunk = found[f"trunk-{kind}-seed0"].spec
    branch = found[f"weak-{kind}-replay-0.05-seed0"].spec
    assert _rate(trunk, trunk.train.steps) == pytest.approx(rate * 3e-3)
    assert _rate(branch, 0) == pytest.approx(rate * 3e-3) == pytest.approx(_rate(branch, 84))
    assert _rate(branch, 100) == pytest.approx(3e-4)
    assert branch.train.start.optimizer == "keep"
    assert branch.data.replay == (f"{tmp_path / 'runs' / f'trunk-{kind}-seed0'}@0.05",)


def test_additive_replay_keeps_the_new_text_and_its_whole_schedule(tmp_path):
    spec = dataclasses.replace(lib.laptop(), replay_accounting="additive")
    found = _stages(spec, tmp_path)
    steps = {
        share: found[f"weak-rewarm-replay-{share}-seed0"].spec.train.steps
        for share in ("0", "0.05", "0.25")
    }
    assert steps == {"0": 120, "0.05": 127, "0.25": 160}
    longer = found["weak-rewarm-replay-0.25-seed0"].spec
    assert _rate(longer, 160) == pytest.approx(3e-4) and _rate(longer, 120) > 4e-4


def test_splits_read_the_old_data_on_under_every_schedule(tmp_path):
    spec = dataclasses.replace(
        lib.laptop(), schedules=("rewarm", "infinite", "wsd"), splits=3, steps=100
    )
    found = {s.name: s for s in lib.stages(spec, tmp_path) if s.shift == SPLITS and not s.seed}
    assert len(found) == 3 * 3 + 1
    for kind in ("rewarm", "infinite", "wsd"):
        parts = [found[f"splits-{kind}-{k}-seed0"].spec for k in (1, 2, 3)]
        assert [part.data.sources for part in parts] == [("wordnet_glosses",)] * 3
        assert [Path(p.train.start.run).name for p in parts] == [
            "",
            f"splits-{kind}-1-seed0",
            f"splits-{kind}-2-seed0",
        ]
        assert {p.train.start.data for p in parts[1:]} == {"continue"}
        ends = [_rate(part, 100) / 3e-3 for part in parts]
        held = {"rewarm": 0.1, "infinite": 0.55, "wsd": 1.0}[kind]
        assert ends == pytest.approx([held, held, 0.1])
    assert found["splits-long-3-seed0"].spec.train.steps == 300


def test_side_arms_may_have_fewer_seeds(tmp_path):
    spec = dataclasses.replace(
        lib.laptop(), peaks=(1.0, 2.0), optimizers=("reset", "keep"), side_seeds=1,
        baselines=("floor", "same", "hold"), schedules=("rewarm", "infinite", "wsd"),
        side_shifts=("strong",), splits=2,
    )  # fmt: skip
    count = {}
    for stage in lib.stages(spec, tmp_path):
        name = f"{stage.shift}/{stage.variant}"
        count[name] = count.get(name, 0) + 1
    main = ("rewarm-replay-0-peak-2", "rewarm-replay-0.25", "infinite-replay-0", "floor")
    for variant in main:
        assert count[f"weak/{variant}"] == 3 and count[f"strong/{variant}"] == 1
    for side in ("rewarm-replay-0-keep", "rewarm-replay-0.05-peak-2", "wsd-replay-0", "hold"):
        assert count[f"weak/{side}"] == 1
    assert count["weak/same"] == count["/trunk-wsd"] == 1 and "strong/same" not in count
    assert count["/trunk-infinite"] == 3 and count["splits/wsd"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedules": "rewarn"}, "unknown 'rewarn' in schedules.*'rewarm'"),
        ({"baselines": "unions"}, "unknown 'unions' in baselines.*'union'"),
        ({"shifts": "wiktionary_de"}, "expected shifts as NAME=SOURCE"),
        ({"shifts": "old=gcide"}, "name of its own"),
        ({"shifts": "splits=gcide"}, "name of its own"),
        ({"replay": "0,1"}, "shares of replay from 0 to below 1, got 1"),
        ({"replay": "0,0.05,0.05"}, "every value of replay once, got 0.05"),
        ({"replay": "0.05,0.050000001"}, "every value of replay once, got 0.05"),
        ({"peaks": "1,2,2"}, "every value of peaks once, got 2"),
        ({"peaks": "0"}, "peaks above 0"),
        ({"seeds": "0"}, "at least 1"),
        ({"seeds": "2", "side_seeds": "3"}, "0 <= side_seeds <= seeds = 2"),
        ({"side_shifts": "storng"}, "expected side_shifts among strong, got 'storng'"),
        ({"splits": "1"}, "splits of 0 or at least 2"),
        ({"replay_accounting": "both"}, "unknown 'both' in replay_accounting"),
        ({"optimizers": ""}, "at least one each"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        specs.override(lib.smoke(), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedules": "rewarm,infinite", "base.optim.schedule.floor": "0", "baselines": ""},
            "strong-infinite-replay-0-seed0 cannot be trained.*exponential",
        ),
        ({"base.optim.schedule.floor": "0"}, "floor trains the second stage at the floor"),
        (
            {"base.optim.schedule.kind": "wsd", "base.optim.schedule.decay": "38",
             "baselines": "new"},
            "strong-new-seed0 cannot be trained.*needs 39 steps.*has 20",
        ),
        (
            {"schedules": "rewarm,infinite", "base.optim.schedule.warmup": "20"},
            "trunk-infinite-seed0 cannot be trained.*needs 44 steps.*has 40",
        ),
    ],
)  # fmt: skip
def test_rates_of_any_stage_that_cannot_be_are_refused_before_the_first_trains(
    tmp_path, changes, message
):
    spec = specs.override(lib.smoke(), changes)
    with pytest.raises(UserError, match=f"(?s){message}"):
        continual.describe(spec)
    with pytest.raises(UserError, match=f"(?s){message}"):
        continual.run(spec, tmp_path / "study", "command")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("preset", ["smoke", "laptop", "desk"])
def test_presets_can_be_trained(preset):
    assert continual.plan(continual.PRESETS[preset](), Path("W"))


def test_a_tiny_study_ends_with_a_report(tmp_path):
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
        "--config.base.model.num_layers=1",
        "--config.base.data.validation_fraction=0.2",
        "--config.base.train.steps=32",
        "--config.steps=6",
        "--config.schedules=rewarm,wsd",
        "--config.baselines=union,union_update,same",
        "--config.splits=2",
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
    for name in ("old/forgetting", "old/transient_peak", "adaptation", "gap_total", "gap_update"):
        row = rows[f"mine/rewarm-replay-0.25/{name}"]
        assert row["value"] is not None and row["n"] == 1 and "one seed" in row["note"]
    assert "mid-schedule" not in rows["mine/rewarm-replay-0.25/gap_update"]["note"]
    loss = {
        where: rows[f"mine/rewarm-replay-0.25/{where}/loss"]["value"] for where in ("old", "mine")
    }
    average = rows["mine/rewarm-replay-0.25/average"]["value"]
    assert average == pytest.approx(sum(loss.values()) / 2)

    # The loss matrix: what an arm loses is the difference of its first column.
    before, forgot = (
        rows[f"mine/rewarm-replay-0.25/{name}"]["value"]
        for name in ("after_old/old/loss", "old/forgetting")
    )
    assert forgot == pytest.approx(loss["old"] - before)
    assert rows["mine/old/old/loss"]["value"] == pytest.approx(before)
    assert rows["mine/same/old/loss"]["value"] is not None
    assert rows["mine/wsd-replay-0/after_old/mine/loss"]["value"] is not None

    record = json.loads((folder / "runs/mine-rewarm-replay-0.25-seed0/spec.json").read_text())
    ledger = record["data"]["ledger"]
    # 6 steps of 8 rows, a quarter of them replayed.
    assert sum(part["replayed"] + part["repeated"] for part in ledger.values()) >= 12 * 320
    assert sum(sum(part.values()) for part in ledger.values()) == 48 * 320
    _check_splits(folder, rows)

    page = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("New data without losing the old", "What was read", "`same`", "loss matrix"):
        assert words.strip("`") in page
    kept = (folder / "results.md").read_text(encoding="utf-8")
    assert "No shift" in kept and "| wsd, part 2 |" in kept and "had been read before" in kept


def _check_splits(folder, rows):
    """The parts read what the long run reads, one after the other."""
    read = [
        json.loads((folder / f"runs/splits-{name}-seed0/spec.json").read_text())["data"]["ledger"]
        for name in ("wsd-1", "wsd-2", "long-2")
    ]
    total = [sum(sum(counts.values()) for counts in ledger.values()) for ledger in read]
    assert total[0] + total[1] == total[2] == 2 * 6 * 8 * 320
    for variant in ("rewarm", "wsd"):
        gap = rows[f"splits/{variant}/less_long"]["value"]
        ends = [rows[f"splits/{name}/loss"]["value"] for name in (variant, "long")]
        assert np.isclose(gap, ends[0] - ends[1])
