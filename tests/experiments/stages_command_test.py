"""A list of stages: what each is made of, its recipes, and one small list end to end."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import text

from experiments import stages as command
from experiments import stages_list as lib
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import read_spec


def _stages(*entries, **changes):
    """The stages of a list by name, on the base of the smoke preset."""
    spec = specs.override(command.smoke(), {f"base.{k}": v for k, v in changes.items()})
    spec = specs.override(spec, {"stages": entries})
    return {stage.name: stage for stage in lib.stages(spec, Path("/folder"))}


def _rates(stage):
    """The learning rate of every update of a stage, as its run reads it."""
    first, end = (stage.first, 0 if not stage.first else stage.end)
    run = stage.spec
    schedule = make_schedule(run.optim.schedule, run.train.steps, first, end)
    return [float(x) for x in schedule(jnp.arange(run.train.steps))]


TRUNK = "pretrain:steps=40/kind=cosine_infinite/warmup=2/cooldown=24"


def test_a_stage_goes_on_where_the_one_before_it_ended():
    found = _stages(TRUNK, "more:steps=20", "again:steps=10")
    begin = found["more"].spec.train.start
    assert (begin.run, begin.step) == ("/folder/runs/pretrain", 40)
    assert (begin.optimizer, begin.data, begin.continue_schedule) == ("keep", "continue", True)
    assert found["again"].spec.train.start.run == "/folder/runs/more"
    assert (found["again"].first, found["again"].end) == (60, 70)
    level = 0.55 * 4e-3
    assert _rates(found["pretrain"])[-1] == pytest.approx(level)
    assert _rates(found["more"]) == pytest.approx([level] * 20)
    assert found["more"].spec.data == found["pretrain"].spec.data


def test_a_branch_leaves_at_a_step_that_is_saved():
    found = _stages(
        TRUNK, "anneal:start=pretrain@30/steps=8/decay=5", "more:start=pretrain/steps=9"
    )
    assert found["pretrain"].spec.train.checkpoint.steps == (30, 40)
    anneal = found["anneal"]
    assert (anneal.at, anneal.first, anneal.end) == (30, 30, 38)
    level = 0.55 * 4e-3
    rates = _rates(anneal)
    assert rates[:4] == pytest.approx([level] * 4)
    assert rates[4] == pytest.approx(level * (0.1 / 0.55) ** (1 / 5))
    assert found["more"].spec.train.start.step == 40


def test_new_data_with_replay_and_a_schedule_of_its_own():
    found = _stages(
        TRUNK,
        "more:steps=19/sources=gcide@3+wiki_leads/replay=pretrain@0.05/kind=cosine/peak=1e-3"
        "/warmup=2/optimizer=reset",
    )
    run = found["more"].spec
    assert run.data.sources == ("gcide@3", "wiki_leads")
    assert run.data.replay == ("/folder/runs/pretrain@0.05",)
    begin = run.train.start
    assert (begin.data, begin.optimizer, begin.continue_schedule) == ("fresh", "reset", False)
    assert (run.optim.schedule.kind, run.optim.schedule.peak) == ("cosine", 1e-3)
    everything = ("wordnet_glosses", "gcide", "wiki_leads")
    for stage in found.values():
        assert stage.spec.data.also_validate == everything
        assert stage.spec.data.tokenizer_sources == everything


def test_replay_on_top_of_the_new_text():
    equal, added = (
        _stages(TRUNK, f"more:steps=19/sources=gcide/replay=pretrain@0.05/accounting={a}")["more"]
        for a in ("equal", "additive")
    )
    assert (equal.spec.train.steps, added.spec.train.steps) == (19, 20)


def test_settings_of_a_run_by_their_whole_name():
    found = _stages(TRUNK, "more:steps=9/optim.weight_decay=0.2/seed=3".replace("/seed=3", ""))
    assert found["more"].spec.optim.weight_decay == 0.2
    assert found["pretrain"].spec.optim.weight_decay == 0.1


def test_stages_are_compared_on_held_out_text():
    with pytest.raises(UserError, match="validation_fraction above 0, got 0"):
        _stages(TRUNK, **{"data.validation_fraction": "0"})


def test_phases_are_joined_with_plus():
    found = _stages("only:steps=30/kind=piecewise/phases=linear:10:1+cosine:20:0.1")
    assert found["only"].spec.optim.schedule.phases == ("linear:10:1", "cosine:20:0.1")


# ---- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "switch"), [(1000, 712), (100, 72), (10, 8)])
def test_reuse_switches_the_blend_at_a_fifth_of_its_first_rate(steps, switch):
    found = _stages(
        "pretrain:steps=40/kind=cosine/warmup=2",
        f"on:recipe=reuse/steps={steps}/sources=wordnet_glosses+gcide/then=gcide@3+wiki_leads",
    )
    assert list(found) == ["pretrain", "on-1", "on-2"]
    one, two = found["on-1"], found["on-2"]
    assert [s.spec.train.steps for s in (one, two)] == [switch, steps - switch]
    assert two.spec.train.start.run == "/folder/runs/on-1"
    assert two.spec.data.sources == ("gcide@3", "wiki_leads")
    least = 4e-3 * 0.1  # where the cosine before it ended
    rates = _rates(one) + _rates(two)
    expected = [
        least * (0.01 + 0.99 / 2 * (1 + math.cos(math.pi * t / steps))) for t in range(steps)
    ]
    assert rates == pytest.approx(expected, rel=1e-4)
    assert rates[0] == pytest.approx(least)
    assert rates[switch - 1] > least / 5 >= rates[switch] * (1 - 1e-6)
    end = make_schedule(two.spec.optim.schedule, steps)(jnp.asarray(steps))
    assert float(end) == pytest.approx(least / 100, rel=1e-4)


def test_rounds_peak_along_one_cosine():
    rounds, steps, warmup, top, low = 3, 50, 4, 4e-3, 4e-4
    found = _stages(
        f"month:recipe=rounds/steps={steps}/warmup={warmup}/sources=wordnet_glosses/then=gcide"
        "/then=wiki_leads",
    )
    assert list(found) == ["month-1", "month-2", "month-3"]
    assert [s.spec.data.sources for s in found.values()] == [
        ("wordnet_glosses",), ("gcide",), ("wiki_leads",)
    ]  # fmt: skip
    for i, stage in enumerate(found.values()):
        assert stage.spec.train.start.run == (f"/folder/runs/month-{i}" if i else "")
        rates = _rates(stage)
        # The published formula: i S + w against the cosine from W to (i + 1) S, W all warm-ups.
        behind, so_far = i * steps + warmup - (i + 1) * warmup, (i + 1) * (steps - warmup)
        peak = low + (top - low) / 2 * (1 + math.cos(math.pi * behind / so_far))
        assert rates[0] == 0 and rates[warmup] == pytest.approx(peak, rel=1e-5)
        assert max(rates) == rates[warmup]
        last = low + (peak - low) / 2 * (1 + math.cos(math.pi * (45 / 46)))
        assert rates[-1] == pytest.approx(last, rel=1e-4)
    assert rounds == len(found)


def test_only_what_is_read_is_validated():
    found = _stages("one:steps=4/sources=gcide", "two:steps=4/sources=wiki_leads")
    assert {stage.spec.data.also_validate for stage in found.values()} == {("gcide", "wiki_leads")}
    found = _stages("one:steps=4/sources=gcide", "two:steps=4", "three:steps=4/start=fresh")
    assert found["three"].spec.data.also_validate == ("gcide", "wordnet_glosses")


def test_rounds_after_others_read_on():
    found = _stages(
        "pretrain:steps=40/kind=cosine/warmup=2", "on:recipe=rounds/rounds=2/done=1/steps=20"
    )
    one, two = found["on-1"].spec, found["on-2"].spec
    assert one.train.start.run == "/folder/runs/pretrain" and one.train.start.data == "continue"
    assert one.optim.schedule.peak == pytest.approx(4e-4 + 3.6e-3 / 2)
    assert two.optim.schedule.peak == pytest.approx(4e-4 + 3.6e-3 / 2 * (1 - 0.5))
    alone = _stages("on:recipe=rounds/rounds=2/steps=20/optimizer=reset")
    assert [s.spec.train.start.optimizer for s in alone.values()] == ["keep", "reset"]
    later = _stages(TRUNK, "on:recipe=rounds/rounds=2/steps=20/sources=gcide", "x:start=on/steps=5")
    assert later["x"].spec.train.start.run == "/folder/runs/on-2"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "at least one stage"),
        (("pretrain",), "expected stages as NAME:KEY=VALUE"),
        (("fresh:steps=4",), "and not fresh or start"),
        ((TRUNK, TRUNK), "name of its own, got 'pretrain' twice"),
        (("a:recipe=rounds/rounds=2", "a-1:steps=3"), "name of its own, got 'a-1' twice"),
        (("a:stepz=4",), "unknown 'stepz' in the stage .*'steps'"),
        (("a:steps=4/steps=5",), "says steps twice"),
        (("a:steps=four",), "stage a expects a whole number for steps, got 'four'"),
        (("a:model.widht=4",), "unknown key 'model.widht'"),
        ((TRUNK, "b:start=pretrian"), "none of the stages before it.*'pretrain'"),
        ((TRUNK, "b:start=pretrain@41"), "a step of 1 to 40, where pretrain ends, got '41'"),
        ((TRUNK, "b:sources=gcide/replay=c@0.1"), "replays 'c', which is none of the stages"),
        ((TRUNK, "b:sources=gcide/replay=pretrain@1"), "0 < SHARE < 1"),
        ((TRUNK, "b:accounting=both"), "accounting equal or additive, got 'both'"),
        ((TRUNK, "b:optimizer=drop"), "train.start.optimizer keep or reset"),
        (("a:replay=a@0.1",), "starts from fresh parameters and says replay"),
        (("a:then=gcide",), "says then, which belongs to a recipe"),
        (("a:recipe=reuze",), "unknown recipe 'reuze'"),
        (("a:recipe=reuse/sources=gcide/then=wiki_leads",), "a stage to start from"),
        ((TRUNK, "b:recipe=reuse/sources=gcide"), "one then=BLEND"),
        ((TRUNK, "b:recipe=rounds/rounds=2/horizon=9"), "decides horizon itself"),
    ],
)
def test_what_cannot_be_a_list_is_refused(entries, message):
    with pytest.raises(UserError, match=message):
        _stages(*entries)


# ---- plans and runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    old = text.write_corpus(root / "old.jsonl", 80)
    return root, old, text.write_corpus(root / "new.jsonl", 60, seed=1)


def _small(root, old):
    return {
        "base.data.sources": str(old),
        "base.data.cache_dir": str(root / "cache"),
        "base.data.tokenizer": "bpe:384",
        "base.data.length": "64",
        "base.data.validation_fraction": "0.2",
        "base.model.vocab_size": "384",
        "base.model.num_layers": "1",
        "base.train.validate_every": "4",
    }


def _list(new):
    return (
        "one:steps=8/kind=cosine_infinite/warmup=1/cooldown=3",
        f"two:steps=8/sources={new}/replay=one@0.25",
        "side:start=two@4/steps=4/decay=4/optimizer=scale:0.5",
    )


@pytest.fixture(scope="module")
def two_planned(corpora):
    """Settings of a list, and its first two stages, planned."""
    root, old, new = corpora
    changes = _small(root, old) | {"base.train.checkpoint.every": "4"}
    spec = specs.override(command.smoke(), changes | {"stages": _list(new)[:2]})
    ready = command.prepare_all(spec, Path("WORKDIR"))
    return changes, {str(one.stage.path): one.parts.planned_as(one.plan) for one in ready}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("three:start=two@4/decay=9/steps=4", "stage three: .*another schedule"),
        ("three:start=one/data=continue/replay=one@0.5/steps=4", "stage three: .*read other data"),
        ("three:start=one/sources={new}/replay=two@0.1/steps=4", "stage three: .*never trained on"),
        ("three:start=two/kind=cosine/steps=4/model.width=48", "stage three: .*another model"),
        ("three:start=two/kind=wsd/warmup=3/decay=3/steps=4", "stage three: .*needs 6 steps"),
        ("three:start=two/kind=cosine/steps=4/optim.clip_norm=0", "does not fit this run: opt_st"),
        (
            "three:start=two/kind=cosine/floor=0/steps=4/shape=exponential/kind2=1",
            "unknown 'kind2'",
        ),
        ("three:start=two/decay=4/floor=0/steps=4", "never reaches 0"),
    ],
)
def test_a_dry_run_refuses_what_cannot_work(two_planned, corpora, entry, message):
    changes, planned = two_planned
    entries = (*_list(corpora[2])[:2], entry.format(new=corpora[2]))
    with pytest.raises(UserError, match=f"(?s){message}"):
        spec = specs.override(command.smoke(), changes | {"stages": entries})
        command.prepare(lib.stages(spec, Path("WORKDIR"))[-1], planned=planned)


def test_a_list_from_end_to_end(corpora, tmp_path):
    root, old, new = corpora
    folder = tmp_path / "study"
    flags = [f"--config.{key}={value}" for key, value in _small(root, old).items()]
    flags += [f"--config.stages={','.join(_list(new))}", f"--workdir={folder}"]

    spec = specs.override(command.smoke(), _small(root, old) | {"stages": _list(new)})
    plan = "\n".join(command.describe(spec))
    assert "3 stages, 20 steps, 10,240 tokens" in plan
    assert "side: from step 4 of two" in plan
    # 8 steps of 8 rows, a quarter of them replayed.
    assert f"{old!s:<20} replayed 16 rows (1,024 tokens)" in plan
    line = (
        "start: step 4 of WORKDIR/runs/two; optimizer scale:0.5, schedule from step 12, data from"
    )
    assert f"{line} step 4" in plan

    done = subprocess.run(
        [sys.executable, "-m", "experiments.stages", "--preset=smoke", *flags],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"report: {folder / 'report.html'}\n"
    runs = {name: folder / "runs" / name for name in ("one", "two", "side")}
    parents = {name: read_spec(path / "spec.json")["parent"] for name, path in runs.items()}
    assert parents["one"] is None
    assert (parents["two"]["run"], parents["two"]["step"]) == (str(runs["one"]), 8)
    assert (parents["side"]["run"], parents["side"]["step"]) == (str(runs["two"]), 4)
    stages = read_spec(runs["side"] / "spec.json")["data"]["stages"]
    assert [Path(stage["run"]).name for stage in stages] == ["one", "two"]
    assert [stage["tokens"] for stage in stages] == [8 * 512, 4 * 512]
    two, side = (read(runs[name] / "metrics.jsonl") for name in ("two", "side"))
    for key in ("loss", "learning_rate", f"validation_loss/{old}"):
        assert side[0][key] == two[4][key]
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    assert len(rows) == 3 * 2 * 2
    assert rows[f"side/{new}/after"]["value"] == side[-1][f"validation_loss/{new}"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "A run in stages" in page and "What was read" in page and "step 4 of two" in page

    rates = (folder / "figures" / "stages_rates.csv").read_text().splitlines()
    assert rates[0] == "stage,what,tokens,value"
    assert [int(line.split(",")[2]) for line in rates[17:]] == [512 * k for k in (12, 13, 14, 15)]

    with pytest.raises(UserError, match="another spec"):
        command.run(specs.override(spec, {"stages": _list(new)[:2]}), folder, "command")
    metrics = (runs["side"] / "metrics.jsonl").read_bytes()
    command.run(spec, folder, "command")  # nothing is left to do
    assert (runs["side"] / "metrics.jsonl").read_bytes() == metrics


def test_a_list_goes_on_from_a_run_that_is_none_of_it(corpora, tmp_path):
    root, old, new = corpora
    small = _small(root, old)
    first = specs.override(command.smoke(), small | {"stages": ("a:steps=4/kind=constant",)})
    (stage,) = lib.stages(first, tmp_path / "first")
    command.learn(stage, "command")
    begin = {"base.train.start.run": str(tmp_path / "first" / "runs" / "a")}
    entries = ("on:steps=4", f"b:steps=4/sources={new}/replay=start@0.25/kind=cosine")
    spec = specs.override(command.smoke(), small | begin | {"stages": entries})
    planned = command.prepare_all(spec, tmp_path / "second")
    on, b = (ready.stage for ready in planned)
    assert command._origin(on) == f"from step 4 of {stage.path}"
    assert (on.spec.train.start.data, on.first, on.end) == ("continue", 4, 8)
    assert [stage["tokens"] for stage in planned[1].plan.describe()["stages"]] == [2048, 2048]
    assert b.spec.train.start.run == str(on.path)
    tokenizers = {ready.plan.tokenizer_fingerprint for ready in planned}
    assert tokenizers == {planned[0].parts.origin.tokenizer}
