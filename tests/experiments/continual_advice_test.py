"""Advice from sweeps whose losses obey a known law, and from a run of one's own, end to end."""

import dataclasses
import json
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import continual_advice as lib
from experiments import continual_stages, continual_sweep
from llm_dynamics import spec as specs
from llm_dynamics.continual.curve_law import at_steps, evaluate
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.opened import open_data
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder, read_spec

DECAY = 0.97
CURVE = {"A": 0.5, "alpha": 0.5, "C1": 0.1, "C2": 0.1, "beta": 0.4}


def _eq8(at, share):
    """Replay as in Eq. 8 of Wang et al. 2025."""
    more = dict(L0=3.0, B=0.6, E=30.0, a1=0.2, a2=1.5), dict(L0=3.2, B=-0.5, E=60.0, a1=0.2, a2=0.7)
    return [
        evaluate(CURVE | one, at, share, which)
        for one, which in zip(more, ("old", "new"), strict=True)
    ]


def _saturating(at, share):
    """Forgetting that a little replay mends, and learning that it hardly disturbs.

    The first by a power of 1 + 40 share, much as small runs have it, the second by a power of what
    is new that no law here has, as it scales what is learned.
    """
    curve = {"L0": 1.0, "A": 3.6, "alpha": 0.13, "C1": 2.0, "C2": 10.0, "E": 60.0, "beta": 1.6}
    mended = (1 + 40 * share) ** -0.8
    old = evaluate(curve | {"B": 1.8 * mended}, at, 0.0, "old")
    more = {"L0": 7.0, "B": -6.0 * (1 - share) ** 0.1, "beta": 0.4}
    return [old, evaluate(CURVE | {"E": 60.0} | more, at, 0.0, "new")]


def _losses(law, rates_T, start, steps_S, share):
    return np.stack(law(at_steps(rates_T, start, steps_S, DECAY), share), axis=1)


def _arms(asked, law):
    """The arms of the sweep, as if their runs had obeyed a law exactly."""
    runs = continual_sweep.planned(asked, Path("WORKDIR"))
    first_T = _rates(runs[0].spec)
    steps_S = np.arange(10, len(first_T) + 1, 10)
    losses_SxZ = _losses(law, first_T, len(first_T), steps_S, 0.0)
    before = StageLog(Path("old"), steps_S, losses_SxZ, first_T, 100, {})
    settings = {s.variant: s for s in runs if s.shift and not s.seed}
    arms = {}
    for variant, stage in settings.items():
        rates_T = _rates(stage.spec)
        steps_S = np.arange(0, len(rates_T) + 1, stage.spec.train.validate_every)
        at = steps_S + len(first_T)
        losses_SxZ = _losses(law, np.append(first_T, rates_T), len(first_T), at, stage.share)
        log = StageLog(Path(stage.name), steps_S, losses_SxZ, rates_T, 100, {})
        arms[variant] = Arm(("old", "strong"), {0: log}, {0: before})
    return arms, settings, first_T


def _rates(run):
    schedule = make_schedule(run.optim.schedule, run.train.steps)
    return np.array([float(schedule(jnp.asarray(t))) for t in range(run.train.steps)])


@pytest.fixture(scope="module")
def asked():
    laptop = dataclasses.replace(
        continual_stages.laptop(), shifts=("strong=wiktionary_de",), steps=120
    )
    return lib.question(laptop)


# ---- the sweep -----------------------------------------------------------------------------------


def test_the_sweep_is_short_and_holds_peaks_shares_and_schedules(asked):
    runs = continual_sweep.planned(asked, Path("W"))
    second = [s for s in runs if s.shift and not s.seed]
    assert {s.spec.train.steps for s in second} == {30}
    # All shares at one peak; two other peaks and the floor at 5 and 25 %.
    assert len({s.variant for s in second}) == 5 + 2 * 3
    crossed = {s.share for s in second if s.spec.optim.schedule.peak == pytest.approx(6e-3)}
    assert crossed == {0.05, 0.25} == {s.share for s in second if s.variant.startswith("floor")}
    assert len(runs) == 3 * (1 + 11)
    # The first stage is that of the study, so that full runs can be compared.
    laptop = continual_stages.laptop()
    study = dataclasses.replace(laptop, shifts=asked.shifts)
    assert runs[0].spec == continual_stages.stages(study, Path("W"))[0].spec


def test_settings_are_the_users(asked):
    runs = continual_sweep.planned(
        specs.override(asked, {"replay": "0,0.1", "peaks": "1", "schedules": "rewarm", "seeds": 2}),
        Path("W"),
    )
    assert [s.variant for s in runs if not s.seed] == [
        "old",
        "rewarm-replay-0",
        "rewarm-replay-0.1",
    ]
    assert {s.seed for s in runs} == {0, 1}


def test_a_budget_of_tokens_is_that_of_the_second_stage(asked):
    budget = specs.override(asked, {"tokens": "250000"})
    assert budget.whole_steps == 250000 // (16 * 128) == 122 and budget.short_steps == 30
    runs = continual_sweep.planned(budget, Path("W"))
    assert {s.spec.train.steps for s in runs if s.shift} == {30}
    spent = continual_sweep.costs(budget, runs)
    assert spent.sweep == 33 * 30 * 2048 and spent.first == 3 * 240 * 2048
    assert spent.stage == 122 * 2048 and spent.union == (240 + 122) * 2048
    lines = "\n".join(lib.cost_lines(budget, spent))
    for tokens in (spent.sweep, spent.first, spent.stage, spent.union):
        assert (
            f"{tokens:,} tokens" in lines and f"{spent.flops_per_token * tokens:.3g} FLOPs" in lines
        )
    with pytest.raises(UserError, match="budget of at least two steps"):
        specs.override(asked, {"tokens": "100"})


def test_laws_remember_no_longer_than_a_short_stage():
    assert lib.memories(2) == [0.5] and lib.memories(30) == [0.5, 0.9, 0.97]
    assert lib.memories(1000)[-1] == 0.999


# ---- predictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [_eq8, _saturating])
def test_whole_stages_are_foretold(asked, law):
    arms, settings, first_T = _arms(asked, law)
    found = lib.answer(asked, arms, settings)
    assert found.why == "" and len(found.foretold.candidates) == 11
    whole = {
        continual_sweep.choice_of(s): s
        for s in continual_sweep.planned(asked, Path("WORKDIR"), whole=True)
        if s.shift
    }
    true = {}
    for one in found.foretold.candidates:
        rates_T = np.append(first_T, _rates(whole[one.schedule, one.peak, one.share].spec))
        assert len(rates_T) == 240 + 120
        old, new = _losses(law, rates_T, 240, [len(rates_T)], one.share)[0]
        true[one.name] = (old + new) / 2
        assert one.old.mean == pytest.approx(old, rel=0.04)
        assert one.new.mean == pytest.approx(new, rel=0.04)
        if one is found.foretold.choice:
            assert one.old.mean == pytest.approx(old, rel=0.01)
            assert one.new.mean == pytest.approx(new, rel=0.02)
    choice = found.foretold.choice
    assert true[choice.name] <= 1.015 * min(true.values())
    assert choice.average.mean == pytest.approx(true[choice.name], rel=0.01)
    # Between the shares that were run, too.
    inner = lib.between(asked, found.foretold)
    assert inner.share not in asked.replay and inner.peak == pytest.approx(3e-3)
    at = np.append(first_T, _rates(whole["rewarm", inner.peak, 0.05].spec))
    old, new = _losses(law, at, 240, [len(at)], inner.share)[0]
    assert inner.average.mean == pytest.approx((old + new) / 2, rel=0.01)
    lines = "\n".join(lib.say(asked, "strong", found))
    assert f"has the rule take {inner.share:.1%}" in lines
    share, tokens = choice.share, 120 * 16 * 128
    assert f"replayed: {share:.0%} = {share * tokens:,.0f} tokens" in lines
    assert "what laws of the curve add" in lines and "1 seed)" in lines
    for one in found.foretold.candidates:
        assert lines.count(one.name) >= 2  # foretold and measured
    assert "forgetting" in lines and "adaptation" in lines


def test_forgetting_is_of_the_model_before_the_stage(asked):
    full = specs.override(asked, {"part": "1"})  # nothing to foretell
    arms, settings, _ = _arms(full, _saturating)
    found = lib.answer(full, arms, settings)
    assert found.foretold is None and found.why == "the sweep has all steps"
    rows = {row["name"]: row for row in found.measured.rows}
    log = arms["rewarm-replay-0"].runs[0]
    forgot, learned = log.losses_SxZ[-1] - log.losses_SxZ[0]
    assert rows["rewarm/0.003/0/forgetting"]["value"] == pytest.approx(forgot) and forgot > 0.5
    assert rows["rewarm/0.003/0/adaptation"]["value"] == pytest.approx(learned) and learned < 0


def test_without_a_law_what_was_measured_is_advised(asked):
    arms, settings, _ = _arms(asked, _eq8)
    sparse = {}
    for name in ("rewarm-replay-0", "rewarm-replay-0.25"):
        log, before = arms[name].runs[0], arms[name].before[0]
        ends = {"steps_S": log.steps_S[[0, -1]], "losses_SxZ": log.losses_SxZ[[0, -1]]}
        last = {"steps_S": before.steps_S[-1:], "losses_SxZ": before.losses_SxZ[-1:]}
        runs = {0: dataclasses.replace(log, **ends)}
        sparse[name] = Arm(("old", "strong"), runs, {0: dataclasses.replace(before, **last)})
    found = lib.answer(asked, sparse, settings)
    assert found.foretold is None and "recorded losses" in found.why
    lines = "\n".join(lib.say(asked, "strong", found))
    assert "nothing is foretold" in lines and found.last is found.measured


# ---- a run of one's own --------------------------------------------------------------------------


def _corpus(root, name, documents=60):
    """Documents whose words say which source they are of."""
    rng = random.Random(name)
    texts = [" ".join(f"{name}{rng.randrange(99)}" for _ in range(20)) for _ in range(documents)]
    path = root / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _base(root, schedule, steps=6, tokenizer="bytes"):
    sizes = {"vocab_size": 300, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
    return RunSpec(
        model=presets.named("pocket-0.1m", **sizes),
        data=DataConfig(
            (f"{_corpus(root, 'a')}@2",),
            tokenizer,
            length=32,
            batch_size=8,
            validation_fraction=0.2,
            cache_dir=str(root / "cache"),
        ),
        optim=OptimConfig(schedule),
        train=TrainConfig(
            steps,
            validate_every=3,
            validation_batches=1,
            checkpoint=CheckpointConfig(every=2, keep=9),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )


def _learn(spec, folder):
    parts = parts_lib.build(spec, folder)
    plan = build_plan(spec.data, steps=spec.train.steps, lineage=parts.lineage)
    folder.claim(spec, plan.describe(), parts.origin)
    train(parts, plan, folder)
    return str(folder.path)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a trained run, and the settings to ask about it."""
    root = tmp_path_factory.mktemp("own")
    spec = _base(root, ScheduleConfig("cosine", 1e-2), tokenizer="bpe:280")
    run = _learn(spec, RunFolder(root / "base"))
    asked = lib.question(continual_stages.smoke(), run)
    more = {"shifts": f"mine={_corpus(root, 'b')}", "seeds": 2, "steps": 12}
    return root, specs.override(asked, more)


def test_second_stages_alone_start_from_the_users_run(own):
    root, asked = own
    runs = continual_sweep.planned(asked, root / "W")
    assert len(runs) == 2 * 11 and all(s.shift == "mine" for s in runs)
    base = str(root / "base")
    for stage in runs:
        run = stage.spec
        assert run.train.start.run == base and run.train.start.data == "fresh"
        assert run.data.replay == ((f"{base}@{stage.share}",) if stage.share else ())
        assert run.model == asked.base.model and run.data.tokenizer == "bpe:280"
        assert run.data.tokenizer_sources == (str(root / "a.jsonl"),)
        assert run.data.also_validate == (str(root / "a.jsonl"), str(root / "b.jsonl"))
    peaks = sorted({s.spec.optim.schedule.peak for s in runs})
    assert peaks == pytest.approx([1e-3, 5e-3, 1e-2, 2e-2])
    spent = continual_sweep.costs(asked, runs)
    assert spent.base == 6 * 8 * 32 and spent.first == 0 and spent.sweep == 22 * 3 * 8 * 32
    lines = "\n".join(lib.cost_lines(asked, spent) + lib.rule_lines(asked, 11))
    assert f"{base} at step 6" in lines
    assert "2 orders of the new data" in lines and "not hold for other models" in lines


def test_seeds_differ_in_the_order_of_the_new_data(own):
    root, asked = own
    runs = {s.name: s for s in continual_sweep.planned(asked, root / "W")}
    plans = [
        continual_sweep.prepare(asked, runs[f"mine-rewarm-replay-0.25-seed{seed}"]).plan
        for seed in (0, 1)
    ]
    tokens = [np.concatenate([plan.batch(t).tokens_BxL for t in range(3)]) for plan in plans]
    assert tokens[0].shape == tokens[1].shape and (tokens[0] != tokens[1]).any()
    replayed = [["replayed" in row for row in plan.explain(1)] for plan in plans]
    assert replayed[0] == replayed[1] and sum(replayed[0]) == 2
    rows = np.array(replayed[0])
    same = [plan.batch(1).tokens_BxL[rows] for plan in plans]
    np.testing.assert_array_equal(*same)
    # The same documents are held out, and the same rows of them are scored.
    for name in asked.base.data.sources[0].rpartition("@")[0], str(root / "b.jsonl"):
        held = [plan.also_validated(2)[name][0].tokens_BxL for plan in plans]
        np.testing.assert_array_equal(*held)
    data = open_data(runs["mine-rewarm-replay-0.25-seed0"].spec.data)
    assert continual_sweep.reordered(data, 0) is data


def test_advice_about_the_users_run_and_its_check(own):
    root, asked = own
    asked = specs.override(asked, {"replay": "0,0.25", "peaks": "1", "schedules": "rewarm"})
    dry = "\n".join(lib.describe(asked))
    assert "4 runs:" in dry and "mine-rewarm-replay-0.25-seed0: 3 steps, 768 tokens" in dry
    assert f"start: step 6 of {root / 'base'}" in dry and "rule:" in dry
    assert not (root / "advice").exists()
    lines = "\n".join(lib.run(asked, root / "advice", "test"))
    assert "taken by the rule" in lines and "mine: " in lines
    log = read(root / "advice/runs/mine-rewarm-replay-0.25-seed1/metrics.jsonl")
    rows = {row["name"]: row for row in json.loads((root / "advice/results.json").read_text())}
    forgot = rows["mine/sweep/rewarm/0.01/0.25/forgetting"]
    assert forgot["n"] == 2 and forgot["low"] is not None
    key = f"validation_loss/{root / 'a.jsonl'}"
    start, end = (next(row[key] for row in log if row["step"] == step) for step in (0, 3))
    assert np.isfinite(end - start)
    base = read_spec(root / "advice/runs/mine-rewarm-replay-0.25-seed1/spec.json")["parent"]
    assert base["run"] == str(root / "base") and base["step"] == 6
    # Full runs of the same choices, from the same checkpoint.
    full = specs.override(asked, {"part": "1"})
    said = "\n".join(lib.run(full, root / "full", "test"))
    assert "nothing is foretold: the sweep has all steps" in said
    said = "\n".join(lib.run(asked, root / "advice", "test", str(root / "full")))
    assert "checked against" in said and "regret:" in said
    rows = {row["name"]: row for row in json.loads((root / "advice/results.json").read_text())}
    fulls = {row["name"]: row for row in json.loads((root / "full/results.json").read_text())}
    for share in ("0", "0.25"):
        name = f"rewarm/0.01/{share}/old"
        advised, truth = rows[f"mine/sweep/{name}"], fulls[f"mine/sweep/{name}"]
        error = rows[f"mine/check/sweep/{name}/error"]
        assert (
            error["value"] == pytest.approx(advised["value"] - truth["value"]) and error["n"] == 2
        )
    # A sweep has no whole stages of another length.
    other = specs.override(asked, {"steps": 16})
    said = "\n".join(lib.run(other, root / "other", "test", str(root / "full")))
    assert "taken by the rule" in said and "not checked: no run in" in said
    with pytest.raises(UserError, match="nowhere"):
        lib.run(other, root / "third", "test", str(root / "nowhere"))
    assert not (root / "third").exists()


@pytest.mark.parametrize(
    ("schedule", "ways"),
    [
        (ScheduleConfig("cosine", 1e-2), ("rewarm", "floor")),
        (ScheduleConfig("cosine", 1e-2, floor=0.0), ("rewarm",)),
        (ScheduleConfig("cosine_infinite", 1e-2, cooldown=4), ("rewarm", "infinite")),
        (ScheduleConfig("constant", 1e-2), ("rewarm", "wsd")),
    ],
)
def test_ways_to_go_on_are_those_the_run_offers(tmp_path, schedule, ways):
    spec = _base(tmp_path, schedule)
    folder = RunFolder(tmp_path / "base")
    folder.claim(spec, {"fingerprint": ""})
    assert lib.question(continual_stages.smoke(), str(folder.path)).schedules == ways


def test_a_constant_phase_is_gone_on_from_without_re_warming(tmp_path):
    spec = _base(tmp_path, ScheduleConfig("cosine_infinite", 1e-2, cooldown=4))
    run = _learn(spec, RunFolder(tmp_path / "base"))
    more = {"shifts": f"mine={_corpus(tmp_path, 'b')}", "seeds": 1, "steps": 40}
    asked = specs.override(lib.question(continual_stages.smoke(), run), more)
    runs = {s.variant: s for s in continual_sweep.planned(asked, tmp_path / "W")}
    branch = runs["infinite-replay-0.25"].spec
    assert branch.train.start.optimizer == "keep" and branch.train.start.run == run
    assert runs["rewarm-replay-0.25"].spec.train.start.optimizer == "reset"
    rates_T = continual_sweep.rates(runs["infinite-replay-0.25"])
    np.testing.assert_allclose(rates_T[:8], 0.55 * 1e-2, rtol=1e-6)
    assert rates_T[-1] < 0.55 * 1e-2
    # In its cool-down it is at no constant rate.
    early = specs.override(asked, {"base_step": "2"})
    with pytest.raises(UserError, match="goes on from a constant phase"):
        continual_sweep.planned(early, tmp_path / "W")


def test_mistakes_are_refused(own, tmp_path):
    root, asked = own
    with pytest.raises(UserError, match="is not a run's spec"):
        lib.question(continual_stages.smoke(), str(tmp_path / "none"))
    folder = RunFolder(tmp_path / "study")
    folder.claim(continual_stages.smoke(), {"fingerprint": ""})
    with pytest.raises(UserError, match="got that of a study"):
        lib.question(continual_stages.smoke(), str(folder.path))
    with pytest.raises(UserError, match="constant phase"):
        continual_sweep.planned(specs.override(asked, {"schedules": "rewarm,infinite"}), root)
    for wrong, words in (({"part": "0"}, "part"), ({"within": "1"}, "within")):
        with pytest.raises(UserError, match=words):
            specs.override(asked, wrong)
    with pytest.raises(UserError, match="base_step is a checkpoint of base_run"):
        specs.override(lib.question(continual_stages.smoke()), {"base_step": "3"})
