"""The growth study: its runs, what is asked of them, and one tiny study end to end."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import text

from experiments import cli, growth, growth_runs
from experiments import growth_stages as lib
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.report import growth_report
from llm_dynamics.report.growth_study import Grown


def _stages(spec, folder):
    return {stage.name: stage for stage in lib.stages(spec, folder)}


def test_grown_runs_start_from_the_source_of_their_seed(tmp_path):
    spec = lib.desk()
    found = _stages(spec, tmp_path)
    names = list(found)
    arms = sum(len(spec.arms_of(pair)) + 2 for pair in spec.targets())
    assert len(names) == len(set(names)) == 3 * (1 + arms)
    for stage in found.values():
        start = stage.spec.train.start
        if not stage.growth:
            assert start.run == ""
            continue
        assert start.run == str(tmp_path / "runs" / f"small-seed{stage.seed}")
        assert names.index(f"small-seed{stage.seed}") < names.index(stage.name)
        brief = stage.variant.startswith("brief-")
        assert start.step == (75 if brief else -1)
        assert stage.growth.seed == stage.seed
    assert found["small-seed0"].spec.train.checkpoint.steps == (75,)
    growth.check(spec, list(found.values()))


def test_operators_that_are_one_map_on_a_pair_run_once():
    spec = dataclasses.replace(
        lib.smoke(),
        pairs=("deep:num_layers=4", "wide:width=48/num_heads=6/mlp_width=192", "both:width=48/"
               "num_layers=4/num_heads=6/mlp_width=192"),
        operators=("tile+stack", "zero_pad+stack", "tile+interpolate", "ligo-shared",
                   "copy+append@both"),
    )  # fmt: skip

    def names(pair):
        return [arm.variant for arm in spec.arms_of(pair)]

    assert names("deep") == ["tile+stack", "tile+interpolate", "ligo-shared"]
    assert names("wide") == ["tile+stack", "zero_pad+stack", "ligo-shared"]
    assert len(names("both")) == 5
    # A width alone stacks; what is masked fades in, and is not the copy that is drawn at once.
    more = ("tile+stack", "tile", "copy+append", "msg", "masked+append", "llama_pro",
            "zero_pad+identity")  # fmt: skip
    spec = dataclasses.replace(spec, operators=more)
    assert names("deep") == ["tile+stack", "copy+append", "msg", "llama_pro", "zero_pad+identity"]
    with pytest.raises(UserError, match=r"'tile\+stack@bth' names no pair; did you mean 'both'"):
        dataclasses.replace(spec, operators=("tile+stack@bth",))


def test_a_grown_run_may_drop_layers_and_tokens(tmp_path):
    operators = ("ligo-shared", "ligo-shared~layer_drop=0.1~token_drop=0.15")
    spec = dataclasses.replace(lib.smoke(), operators=operators)
    found = _stages(spec, tmp_path)
    plain, dropping = (found[f"both-{name}-seed0"] for name in operators)
    assert (dropping.spec.train.layer_drop, dropping.spec.train.token_drop) == (0.1, 0.15)
    assert dropping.growth == plain.growth and not plain.spec.train.layer_drop
    for entry, words in (("tile+stack~layr_drop=1", "did you mean 'layer_drop'"),
                         ("tile+stack~layer_drop=x", "layer_drop")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            dataclasses.replace(spec, operators=(entry,))


def test_scratch_costs_as_much_as_source_and_grown_run_together(tmp_path):
    spec = lib.laptop()
    found, length = _stages(spec, tmp_path), spec.base.data.length
    scratch, small = found["both-scratch-seed0"].spec, found["small-seed0"].spec
    grown = found["both-tile+stack-seed0"].spec
    cost = {
        name: run.train.steps * size.flops_per_token(run.model, length)
        for name, run in (("scratch", scratch), ("small", small), ("grown", grown))
    }
    assert cost["scratch"] == pytest.approx(cost["small"] + cost["grown"], rel=0.01)


def test_no_rate_falls_before_a_run_ends(tmp_path):
    for stage in lib.stages(lib.desk(), tmp_path):
        assert stage.spec.optim.schedule.kind == "constant"
        assert not stage.spec.train.start.continue_schedule or not stage.growth


def test_epsilon_follows_the_operator(tmp_path):
    found = _stages(lib.laptop(), tmp_path)
    assert found["both-zero_pad+identity-seed0"].spec.model.norm_eps == pytest.approx(5e-6)
    assert found["both-tile+stack-seed0"].spec.model.norm_eps == 1e-5
    assert found["both-scratch-seed0"].spec.model.norm_eps == 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": ("wide",)}, "NAME:key=value"),
        ({"pairs": ("a:width=96", "a:width=144")}, "'a' twice"),
        ({"pairs": ("a:widht=96",)}, "did you mean 'width'"),
        ({"operators": ("tyle",)}, "did you mean 'tile'"),
        ({"operators": ("ligo-papre",)}, "did you mean 'paper'"),
        ({"operators": ("tile", "tile")}, "every operator once"),
        ({"brief": 1.0}, "0 <= brief < 1"),
        ({"seeds": 0}, "at least 1"),
        ({"moments": "resett"}, "did you mean 'reset'"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_spec(changes, words, tmp_path):
    with pytest.raises(UserError, match=words):
        lib.stages(dataclasses.replace(lib.laptop(), **changes), tmp_path)


@pytest.mark.parametrize(
    ("pair", "operator", "words"),
    [
        ("narrow:width=24/num_heads=3", "tile+stack", "run narrow-tile.*does not shrink"),
        ("bias:use_bias=true/num_layers=8", "tile+stack", "use_bias False -> True"),
        ("blocks:width=96", "block_diagonal", "by one whole factor"),
    ],
)
def test_pairs_that_do_not_grow_are_refused_before_training(pair, operator, words, tmp_path):
    spec = dataclasses.replace(lib.laptop(), pairs=(pair,), operators=(operator,))
    with pytest.raises(UserError, match=words):
        growth.check(spec, lib.stages(spec, tmp_path))


def _arm(offset, seeds=(0, 1), grown=True):
    """Losses that fall by half a nat a hundred tokens' cost, from `offset` on."""
    costs = {unit: np.array([0.0, 1, 50, 100]) for unit in growth_runs.UNITS}
    losses = {s: np.array([6.0, 5.99, 5.5, 5.0]) + offset + 0.01 * s for s in seeds}
    facts = {s: (np.array([0, 4]), np.array([1.0, 0.4 + 0.1 * s])) for s in seeds}
    if not grown:
        return Grown({s: costs for s in seeds}, losses, facts, {}, {}, {})
    record = {
        "flops": 5.0,
        "preserved": {
            "target_loss": 5.5, "source_loss": 5.2, "kl": 0.1, "top1_agreement": 0.75,
            "max_logit_difference": 0.5,
        },
        "duplicates": {"mlp": 1.0},
        "effective_rate": 2.0,
    }  # fmt: skip
    before = {s: (np.array([0, 9]), np.array([0.0, 1.5])) for s in seeds}
    sources = {s: dict.fromkeys(growth_runs.UNITS, 20.0) for s in seeds}
    return Grown(
        {s: costs for s in seeds}, losses, facts, dict.fromkeys(seeds, record), sources, before
    )


def _asked():
    arms = {"a": _arm(-0.5), "b": _arm(-0.25), "c": _arm(-0.1), "scratch": _arm(0.0, grown=False)}
    rows = growth.ask(lib.smoke(), {"both": arms})
    return arms, {row["name"]: row for row in rows}


def test_what_is_saved_forgotten_and_ranked():
    _, found = _asked()
    saved = found["both/a/flops/at_100%/alone/saved"]
    # Half a nat ahead is half of the cost; the source costs 20 and the operator 5 of 100.
    assert saved["value"] == pytest.approx(0.5, abs=0.02)
    charged = found["both/a/flops/at_100%/all/saved"]
    assert saved["value"] - charged["value"] == pytest.approx(0.25, abs=0.01)
    assert found["both/a/facts/at_growth"]["value"] == pytest.approx(-0.5)
    assert found["both/a/facts/after"]["value"] == pytest.approx(-1.05)
    assert found["both/a/loss_change"]["value"] == pytest.approx(0.3)
    assert found["both/probe/at_growth/rank_correlation"]["value"] == pytest.approx(1)
    assert found["both/probe/at_growth/regret"]["value"] == 0
    # The probe makes three operators at 5 each and trains two of them 2 updates for nothing.
    charged = found["both/probe/chosen/flops/at_100%/operator/saved"]
    assert saved["value"] - charged["value"] == pytest.approx(0.05 + 0.14, abs=0.01)
    assert found["both/a/effective_rate"]["value"] == 2
    assert all(row["definition"] and row["unit"] for row in found.values())


def test_the_page_shows_every_operator(tmp_path):
    arms, found = _asked()
    spec = dataclasses.replace(lib.smoke(), seeds=2)
    study = growth.page(spec, (), {"both": arms}, list(found.values()), "launch/local growth")
    path = growth_report.write_report(tmp_path, study)
    page = path.read_text()
    for words in ("A small model grown", "0.50", "StackBERT", "facts at growth"):
        assert words in page
    assert {p.name for p in (tmp_path / "figures").iterdir()} >= {
        "losses_both.csv",
        "facts_both.pdf",
    }
    kept = growth_report.markdown(study)
    assert "| a |" in kept and "| scratch |" in kept


def test_a_tiny_study_end_to_end(tmp_path):
    corpus = text.write_corpus(tmp_path / "text.jsonl")
    command = [
        sys.executable, "-m", "experiments.growth", "--preset=smoke",
        f"--workdir={tmp_path / 'study'}", f"--config.base.data.sources={corpus}",
        f"--config.base.data.cache_dir={tmp_path / 'cache'}",
        "--config.base.data.tokenizer=bpe:512", "--config.base.model.vocab_size=512",
        "--config.base.train.steps=24", "--config.steps=8", "--config.facts.start=4",
        "--config.facts.interval=3", "--config.facts.encounters=4", "--config.facts.window=3",
        "--config.operators=zero_pad+identity,ligo-shared", "--config.learn.steps=3",
        "--config.base.model.num_layers=1",
        "--config.pairs=both:width=48/num_layers=2/num_heads=6/mlp_width=192",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "study"
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    record = json.loads(
        (folder / "runs" / "both-zero_pad+identity-seed0" / "growth.json").read_text()
    )
    assert record["exact"] and record["preserved"]["kept"]
    assert rows["both/zero_pad+identity/facts/at_growth"]["value"] == pytest.approx(0, abs=1e-4)
    learned = json.loads((folder / "runs" / "both-ligo-shared-seed0" / "growth.json").read_text())
    assert learned["flops"] > 0 and learned["learned"]["travel"]["write"] > 0
    parent = json.loads((folder / "runs" / "both-ligo-shared-seed0" / "spec.json").read_text())[
        "parent"
    ]
    assert parent["run"].endswith("small-seed0") and parent["step"] == 24
    before = (folder / "results.json").read_bytes()
    settings = (flag.removeprefix("--config.") for flag in command if "--config." in flag)
    changes = dict(setting.split("=", 1) for setting in settings)
    growth.run(cli.resolve(lib.smoke(), "", changes), folder, "")
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.slow
def test_an_encoder_grows_and_is_asked_no_facts(tmp_path):
    spec = lib.encoder()
    data = dataclasses.replace(
        spec.base.data, sources=(str(text.write_corpus(tmp_path / "text.jsonl")),),
        tokenizer="bytes", cache_dir=str(tmp_path / "cache"), length=32, batch_size=8,
    )  # fmt: skip
    small = dataclasses.replace(
        spec.base.model, vocab_size=258, width=16, num_layers=1, num_heads=2, mlp_width=32,
        max_length=32,
    )  # fmt: skip
    train = dataclasses.replace(spec.base.train, steps=6, validate_every=2, validation_batches=1)
    base = dataclasses.replace(spec.base, model=small, data=data, train=train)
    spec = dataclasses.replace(
        spec, base=base, pairs=("both:width=32/num_layers=2/num_heads=4/mlp_width=64",),
        operators=("tile+stack", "ligo-shared"), steps=4, warmup=1, seeds=1,
        learn=dataclasses.replace(spec.learn, steps=2, warmup=1),
    )  # fmt: skip
    report = growth.run(spec, tmp_path / "study", "launch/local growth --preset=encoder")
    rows = {r["name"]: r for r in json.loads((tmp_path / "study" / "results.json").read_text())}
    assert rows["both/tile+stack/loss_at_growth"]["value"] > 0
    assert rows["both/ligo-shared/effective_rate"]["value"] > 0
    assert not any("/facts/" in name for name in rows)
    assert "What is kept of the small model" not in report.read_text()
    before = (tmp_path / "study" / "results.json").read_bytes()
    growth.run(spec, tmp_path / "study", "launch/local growth --preset=encoder")
    assert (tmp_path / "study" / "results.json").read_bytes() == before
