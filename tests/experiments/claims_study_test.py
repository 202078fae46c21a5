"""The claims study: the runs that follow from a spec, and two tiny ones end to end."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import text
import xarray as xr
from runs import USERS

from experiments import claims
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.facts import arms, estimates, timetable
from llm_dynamics.facts.facts import label_arms
from llm_dynamics.probe.log import open_log


def _planned(spec, folder):
    return claims.settings(spec, folder)


def test_every_setting_changes_what_its_name_says(tmp_path):
    planned = _planned(dataclasses.replace(claims.desk(), factors=claims.FACTORS), tmp_path)
    assert len(planned) == 16 and set(claims.FACTORS) < set(planned)
    first = {name: next(iter(runs.values())) for name, runs in planned.items()}
    head = specs.to_json(first["size-pocket-0.3m"])
    changed = {
        name: {line.split(":")[0] for line in specs.difference(head, specs.to_json(run))}
        for name, run in first.items()
    }
    assert changed["size-pocket-0.3m"] == set()
    assert all(key.startswith("model.") for key in changed["size-pocket-3m"])
    assert changed["rate-triple"] == {"optim.schedule.peak"}
    assert changed["cosine-rate"] == {"optim.schedule.kind"}
    assert changed["decay-none"] == {"optim.weight_decay"}
    assert changed["corpus-duplicated"] == {"data.copies", "data.copied_share"}
    assert changed["corpus-deduplicated"] == {"data.near_duplicates"}
    assert changed["batch-half"] == {"data.batch_size"}
    assert head["optim"]["schedule"]["kind"] == "constant"
    keep, reset = first["optimizer-keep"], first["optimizer-reset"]
    assert dataclasses.replace(keep, train=reset.train) == reset
    assert (keep.train.start.optimizer, reset.train.start.optimizer) == ("keep", "reset")
    # The facts are met at the same updates, counted from the parent's beginning.
    late = [
        next(a for a in run.facts.treatments if a.name == "late")
        for run in (reset, first["size-pocket-0.3m"])
    ]
    assert late[0].start + reset.train.start.step == late[1].start


def test_turned_runs_change_seeds_arms_and_parent_alone(tmp_path):
    planned = _planned(claims.desk(), tmp_path)
    base = list(planned["size-pocket-0.3m"].values())
    assert [run.facts.rotation for run in base] == [0, 4, 1, 5, 2, 6, 3, 7]
    for name, runs in planned.items():
        one, other = list(runs.values())[:2]
        changed = {
            line.split(":")[0]
            for line in specs.difference(specs.to_json(one), specs.to_json(other))
        }
        parent = {"train.start.run"} if name.startswith("optimizer") else set()
        assert changed == {"seed", "data.seed", "facts.rotation"} | parent
        if parent:
            trunk = Path(other.train.start.run)
            assert trunk == tmp_path / "runs" / "size-pocket-0.3m-turn-4"


def test_half_a_turn_exchanges_duplication_and_control(tmp_path):
    one, other = list(_planned(claims.desk(), tmp_path)["rate-triple"].values())
    facts = arms.load_facts(one.facts)
    before, after = (arms.assign_arms(facts, run.facts) for run in (one, other))
    for arm, exchanged in (("duplication", "control"), ("control", "duplication")):
        assert {f for f in before if before[f] == arm} == {
            f for f in after if after[f] == exchanged
        }


def test_half_of_the_batch_at_as_many_tokens_between_encounters(tmp_path):
    planned = _planned(claims.desk(), tmp_path)
    whole, twice = (
        next(iter(planned[name].values())) for name in ("size-pocket-0.3m", "batch-half-tokens")
    )
    assert twice.train.steps * twice.data.batch_size == whole.train.steps * whole.data.batch_size
    assert twice.optim.schedule.warmup == 2 * whole.optim.schedule.warmup
    assert twice.optim.schedule.peak == whole.optim.schedule.peak
    times = [timetable.schedule(run.facts) for run in (whole, twice)]
    assert {arm: tuple(2 * t for t in met) for arm, met in times[0].items()} == times[1]
    (zipf,) = [arm for arm in twice.facts.treatments if arm.name == "zipf"]
    assert (zipf.interval, zipf.start, zipf.encounters) == (40, 100, 12)


def test_the_desk_asks_all_but_one_factor():
    desk = claims.desk()
    assert set(claims.FACTORS) - set(desk.factors) == {"corpus-deduplicated"}
    assert {name for name in claims.FACTORS if name.startswith("batch-")} < set(desk.factors)


def test_roles_are_found_by_name():
    asked = claims.roles(claims.desk().base.facts)
    assert asked["intervals"] == ("every10", "duplication", "every40")
    assert asked["late"] == ("late",) and asked["zipf"] == ("zipf",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": "rate-tripel"}, "unknown run 'rate-tripel'.*'rate-triple'"),
        ({"sizes": ""}, "at least one size"),
        ({"other_pairs": "2"}, "1 <= other_pairs <= base_pairs <= 4"),
        ({"base.facts.arms": "control,once,duplication"}, "half the arms after duplication"),
        ({"base.facts.arms": "once"}, "expected arms duplication and control"),
        ({"share_after": "60"}, r"share_after from 1 to 55.*step 55.*base.train.steps to 115"),
        ({"share_after": "0"}, "share_after from 1 to"),
        (
            {"base.facts.arms": "duplication,every9:same/encounters=1,control,once"},
            "two encounters or more at equal intervals for arm every9.*got 1; raise",
        ),
        (
            {"base.facts.arms": "duplication,every9:same/spacing=random,control,once"},
            "arm every9.*times drawn fact by fact",
        ),
        ({"base.facts.encounters": "1"}, "for arm duplication.*got 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        specs.override(claims.smoke(), changes)


def test_a_pair_of_runs_ends_with_results_and_a_report(tmp_path):
    corpus, folder = text.write_corpus(tmp_path / "corpus.jsonl", 80), tmp_path / "study"
    flags = [
        "--preset=smoke",
        f"--workdir={folder}",
        "--config.factors=",
        "--config.resamples=50",
        "--config.share_after=5",
        f"--config.base.data.sources={corpus}",
        f"--config.base.data.cache_dir={tmp_path / 'cache'}",
        "--config.base.data.tokenizer=bpe:384",
        "--config.base.model.vocab_size=384",
        "--config.base.model.num_layers=1",
        "--config.base.data.validation_fraction=0",
        "--config.base.data.length=320",
        "--config.base.data.batch_size=8",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.claims", *flags],
        env=os.environ | USERS,  # it steps for long enough that compiling well pays
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(folder / "report.html") in done.stdout
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    gain = rows["size-pocket-0.1m/memorization/gain"]
    assert gain["n"] == 6 and gain["low"] <= gain["value"] <= gain["high"]
    assert "two runs: how runs vary is not in the interval" in gain["note"]
    assert "arms of different facts" not in gain["note"]  # exchanged with the control
    apart = rows["size-pocket-0.1m/memorization/accumulation/every4"]
    assert "arms of different facts" in apart["note"]
    assert "size-pocket-0.1m/memorization/threshold/every4" in rows
    assert "size-pocket-0.1m/memorization/share-after-5/paraphrase6" in rows
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What encounters add builds up" in page and "<svg" in page
    kept = (folder / "results.md").read_text()
    assert "| size-pocket-0.1m/memorization/inflation |" in kept
    assert "| size-pocket-0.1m | 2 runs: the reference | 3,333 |" in kept
    dose = next(line for line in kept.splitlines() if line.startswith("| size-pocket-0.1m | 3 x 6"))
    assert dose.count("%") == 7  # every arm but the control

    # The same two runs under another name differ from themselves by nothing.
    spec = specs.override(claims.smoke(), {"resamples": "50", "share_after": "5"})
    studies = [
        estimates.open_study(
            open_log(folder / "runs" / name / "probes"),
            timetable.schedule(run.facts),
            run.facts.window,
            0,
            50,
        )
        for name, run in claims.settings(spec, folder)["size-pocket-0.1m"].items()
    ]
    rows = claims.ask(spec, {"size-pocket-0.1m": studies, "cosine-rate": studies})
    apart = [row for row in rows if row["name"].startswith("cosine-rate-minus-")]
    assert len(apart) == 9 and all(row["value"] == row["low"] == row["high"] == 0 for row in apart)


MEASURES = ["logprob_mean", "logprob_sum", "logprob_first", "rank_first", "greedy_match"]


def _made_up(run, effect=0.4):
    """A log of facts that gain `effect` nats an encounter for good, and drift of their own."""
    facts = arms.load_facts(run.facts)
    assigned = arms.assign_arms(facts, run.facts)
    times = timetable.timetable(facts, assigned, run.facts)
    probes = label_arms(facts, assigned, times)
    steps_S, rng = np.arange(run.train.steps + 1), np.random.default_rng(run.seed)
    drift_F = np.random.default_rng(99).normal(1, 1, len(facts))  # of a fact, in every run
    drift = dict(zip([fact.name for fact in facts], drift_F, strict=True))
    columns = []
    for probe in probes:
        met = np.array(times[probe.labels["fact"]])
        gain_S = effect * (steps_S[:, None] > met).sum(axis=1)
        noise_S = rng.normal(0, 0.05, len(steps_S))
        own = drift[probe.labels["fact"]] * (1 + 0.1 * rng.standard_normal())
        columns.append(gain_S + own * steps_S / len(steps_S) + noise_S - 9)
    value = np.stack(columns, axis=1)
    score = np.stack([value, value, value, np.exp(-value), value > 0], axis=2)
    labels = {name: [probe.labels.get(name, "") for probe in probes] for name in probes[0].labels}
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), score)},
        coords={
            "step": steps_S,
            "tokens": ("step", steps_S * 100),
            "probe": [probe.name for probe in probes],
            "measure": MEASURES,
            **{name: ("probe", column) for name, column in labels.items()},
        },
    )


def test_four_pairs_of_runs_are_asked_everything(tmp_path):
    spec = dataclasses.replace(
        claims.smoke(),
        base_pairs=4,
        base=dataclasses.replace(
            claims.smoke().base, facts=dataclasses.replace(claims.smoke().base.facts, num_facts=32)
        ),
        factors=("cosine-rate", "batch-half-facts-half", "batch-half-tokens"),
    )
    studies = {
        name: [
            estimates.open_study(
                _made_up(run), timetable.schedule(run.facts), run.facts.window, 0, 200
            )
            for run in runs.values()
        ]
        for name, runs in _planned(spec, tmp_path).items()
    }
    rows = {row["name"]: row for row in claims.ask(spec, studies)}
    at = "size-pocket-0.1m/memorization/"
    gain = rows[at + "gain"]
    assert gain["low"] < 6 * 0.4 < gain["high"] and gain["n"] == 32
    assert "8 runs in 4 pairs, fewer than 5" in gain["note"]
    assert gain["definition"].endswith("facts and the pairs of runs resampled")
    # Every fact takes every arm, so no contrast is between facts that differ.
    assert not any("different facts" in rows[name]["note"] for name in rows if name.startswith(at))
    paraphrase = rows[at + "duplication-minus-paraphrase6/gain"]
    assert paraphrase["low"] < 0 < paraphrase["high"] < 0.4
    assert rows[at + "accumulation/every12"]["low"] > 0.3
    assert "unbounded" in rows[at + "threshold/predicted"]["note"]
    tail = rows[at + "long-tail/measured"]
    assert tail["low"] is not None and "not in the interval" in tail["note"]
    for name in ("batch-half-facts-half", "batch-half-tokens", "cosine-rate"):
        row = rows[f"{name}-minus-size-pocket-0.1m/memorization/gain"]
        assert row["low"] <= 0 <= row["high"]
        assert "two runs: how runs vary is not in the interval" in row["note"]
        assert row["n"] == (4 if name == "batch-half-facts-half" else 8)
        assert ("unpaired" in row["definition"]) == (name == "batch-half-facts-half")


def test_a_run_that_cannot_be_is_refused_before_any_is_trained(tmp_path):
    corpus = text.write_corpus(tmp_path / "corpus.jsonl", 80)
    spec = specs.override(
        claims.smoke(),
        {
            "factors": "batch-half",
            "base.data.sources": str(corpus),
            "base.data.cache_dir": str(tmp_path / "cache"),
            "base.data.tokenizer": "bpe:384",
            "base.model.vocab_size": "384",
            "base.data.validation_fraction": "0",
            "base.data.length": "320",
            "base.data.batch_size": "8",
        },
    )
    with pytest.raises(UserError, match="run batch-half-turn-0: batch size 4 cannot be split"):
        claims.run(spec, tmp_path / "study", "command")
    assert not (tmp_path / "study" / "runs").exists()
