"""The command on tiny checkpoints: asked once, kept, refused by name; logs; questions to try."""

import dataclasses
import functools
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments import competence, competence_biographies
from experiments.competence import Asked, FromLog
from llm_dynamics import files, spec
from llm_dynamics.data import tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.facts import biographies
from llm_dynamics.facts.biographies import BiographyConfig
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe import packing
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.probe.log import ProbeLog
from llm_dynamics.probe.probes import Probe, encode_all
from llm_dynamics.probe.scoring import MEASURES, make_scorer
from llm_dynamics.skills import labelled as lib
from llm_dynamics.skills.asked import Settings
from llm_dynamics.skills.series import Scorer
from llm_dynamics.train.asking import blocks
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.finished import finished_run
from llm_dynamics.train.series import OwnCheckpoint, checkpoints

MODEL = ModelConfig(
    vocab_size=257, width=16, num_layers=1, num_heads=2, mlp_width=32, max_length=48
)
ENCODER = dataclasses.replace(MODEL, kind="encoder", position="learned", tie_embeddings=True)
STEPS = (0, 4, 9)
FAST = Settings(resamples=50)


@functools.cache
def _fresh(model: ModelConfig):
    return jax.jit(build_model(model).new_params)


def make_run(
    path: Path, model=MODEL, tokenizer="bytes", cache="", trained=None, save=STEPS
) -> Path:
    """A run folder whose checkpoints hold parameters from other seeds."""
    data = DataConfig(("text.jsonl",), tokenizer, length=32, batch_size=2, cache_dir=cache)
    run_spec = RunSpec(
        model, data, OptimConfig(ScheduleConfig("cosine", 1e-3)), TrainConfig(9), ProbeConfig()
    )
    record = {"spec": spec.to_json(run_spec), "data": {}, "parent": None, "versions": {}}
    files.write_json(path / "spec.json", record)
    trained = trained or tokenizers.load_tokenizer("bytes", None, path).fingerprint
    meta = {"spec": record["spec"], "data": "d", "tokenizer": trained}
    if not save:
        return path
    kept = Checkpoints(path / "checkpoints", CheckpointConfig(steps=save), max(save))
    for step in save:
        params = nn.unbox(_fresh(model)(jax.random.key(step)))
        kept.save({"params": params}, step, meta)
    kept.close()
    return path


def write_questions(path: Path, extra=()) -> Path:
    """Words as targets and choices, of one skill and of two."""
    lines = []
    for i in range(12):
        kind = ("even", "odd")[i % 2]
        lines.append({"context": f"n{i} is", "target": kind[0], "skills": [kind]})
        choices = [f"{a} {b}" for a in ("even", "odd") for b in ("low", "high")]
        lines.append(
            {"context": f"m{i} is", "choices": choices, "answer": i % 4, "skills": [kind, "size"]}
        )
        lines.append({"context": f"k{i} is", "choices": ["low", "high"], "answer": "low",
            "skills": ["size"]})  # fmt: skip
    path.write_text("\n".join(map(json.dumps, [*lines, *extra])) + "\n")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("competence")
    return make_run(root / "run"), write_questions(root / "q.jsonl")


def by_name(workdir: Path):
    return {row["name"]: row for row in json.loads((workdir / "results.json").read_text())}


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    run, questions = made
    workdir = tmp_path_factory.mktemp("work")
    asked = Asked((run,), questions, settings=FAST)
    before = competence.describe(asked, workdir)
    page = competence.run(asked, workdir, "launch/local competence")
    return asked, workdir, before, page


def test_a_series_is_asked_and_reported(finished):
    asked, workdir, before, page = finished
    assert page == workdir / "report.html"
    rows = by_name(workdir)
    for step in STEPS:
        assert 0 <= rows[f"run/step={step}/theta"]["value"] <= 1
        assert rows[f"run/step={step}/theta"]["n"] == 36
        assert f"run/step={step}/k=2/residual" in rows
        assert f"run/step={step}/skill/size/competence" in rows
    assert rows["k=2/chance"]["value"] == 0.25
    assert rows["k=1/chance"]["value"] == 0.25  # half of them targets
    for name in ("loss", "combinations", "weakest", "emergence_run"):
        assert {p.suffix for p in (workdir / "figures").glob(f"{name}.*")} == {
            ".svg", ".pdf", ".csv",
        }  # fmt: skip
    text = page.read_text()
    assert "needs skills that are known" in text and "upper bound" in text
    assert before[0] == (
        "questions: 36 (q.jsonl) about 3 skills; by number of skills: 24 of 1, 12 of 2"
    )
    read = sum(len(probe.text) - 1 for probe in lib.read(asked.probes).probes())  # bytes
    assert before[-1] == f"run/step=9: to be asked ({read:,} tokens to read)"
    assert competence.describe(asked, workdir)[-1].startswith("run/step=9: answered before")


@pytest.fixture
def undrawn(monkeypatch):
    """Pages are drawn once; elsewhere they only take time."""
    monkeypatch.setattr(competence, "write_report", lambda workdir, study: workdir)


def test_scores_are_those_of_one_call(finished, made):
    """Blocks, packing and keeping change nothing."""
    run, questions = made
    labelled = lib.read(questions)
    member = checkpoints([finished_run(run)], [4])[0]
    encoded = encode_all(labelled.probes(), member.tokenizer)
    packed = packing.pack(encoded, 48)
    values = np.asarray(make_scorer(build_model(MODEL), packed)(member.params()))
    scorer = Scorer(labelled, finished[1] / "scores")
    kept = scorer._kept(member)
    np.testing.assert_allclose(kept, values, rtol=1e-4, atol=1e-5)
    outcomes = scorer.point(member).outcomes
    np.testing.assert_array_equal(outcomes.right_TxA, labelled.outcomes(values).right_TxA)
    assert member.tokens == 4 * 2 * 32
    parted = blocks(encoded, 100)
    assert len(parted) > 5 and [p for block in parted for p in block] == encoded


def test_what_was_answered_is_not_asked_again(finished, undrawn, monkeypatch):
    asked, workdir, _, _ = finished
    before = (workdir / "results.json").read_bytes()

    def refuse(self):
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr(OwnCheckpoint, "params", refuse)
        competence.run(asked, workdir, "launch/local competence")
        assert (workdir / "results.json").read_bytes() == before
    # A file that was cut off is made again.
    (path,) = (workdir / "scores").glob("run-4-*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    competence.run(asked, workdir, "launch/local competence")
    assert len(path.read_bytes()) == len(whole)
    assert (workdir / "results.json").read_bytes() == before


def test_results_of_other_questions_or_runs_are_not_overwritten(finished, undrawn, tmp_path):
    asked, workdir, _, _ = finished
    before = (workdir / "results.json").read_bytes()
    other = write_questions(tmp_path / "o.jsonl", [
        {"context": "n is", "target": "even", "skills": ["even"]}])  # fmt: skip
    gc.collect()  # lets go of the workdir, as the end of a process does
    with pytest.raises(UserError, match=r"questions: 36 of q.jsonl, \w+ -> 37 of o.jsonl"):
        competence.run(dataclasses.replace(asked, probes=other), workdir, "")
    twin = make_run(tmp_path / "run", save=(4,))
    gc.collect()
    with pytest.raises(UserError, match=r"runs: \['.*/run'\] -> \['.*/run'\]"):
        competence.run(dataclasses.replace(asked, runs=(twin,)), workdir, "")
    assert (workdir / "results.json").read_bytes() == before
    gc.collect()


def test_other_questions_have_another_folder():
    runs = (Path("a/run"), Path("b/wide"))
    found = [
        competence.default_workdir(Asked(runs, *which))
        for which in ((Path("x/q.jsonl"),), (Path("x/o.csv"),), (None, FromLog("kind")))
    ]
    names = [f"competence-run-wide-{end}" for end in ("q", "o", "log-kind")]
    assert found == [Path("runs", name) for name in names]


def test_steps_and_several_runs(made, undrawn, tmp_path):
    run, questions = made
    wide = make_run(tmp_path / "wide", dataclasses.replace(MODEL, width=32), save=(9,))
    asked = Asked((run, wide), questions, steps=(9,), settings=FAST)
    competence.run(asked, tmp_path / "out", "")
    rows = by_name(tmp_path / "out")
    assert "sizes/exponent_2" in rows and "run/exponent_2" not in rows
    assert {name.split("/")[0] for name in rows if "/theta" in name} == {"run", "wide"}
    with pytest.raises(UserError, match=r"has no checkpoint of step 5; it has 0, 4, 9"):
        competence.describe(dataclasses.replace(asked, runs=(run,), steps=(5,)), tmp_path)
    with pytest.raises(UserError, match="different names, got 'run' twice"):
        competence.describe(dataclasses.replace(asked, runs=(run, run)), tmp_path)
    with pytest.raises(UserError, match="every step once, got 9 twice"):
        competence.describe(dataclasses.replace(asked, steps=(9, 9)), tmp_path)


def test_a_series_of_folders(made, undrawn, tmp_path):
    """As imported checkpoints are: each the only one of a folder, with a tokenizer.json."""
    text = tokenizers.train_bpe(["some words to train it on"] * 3, 257)
    files.write_text(tmp_path / "tokenizer.json", text)
    name = str(tmp_path / "tokenizer.json")
    trained = tokenizers.load_tokenizer(name, None, tmp_path).fingerprint
    runs = [make_run(tmp_path / f"p{i}", MODEL, name, "", trained, save=(i,)) for i in (1, 2)]
    asked = Asked(tuple(runs), made[1], at=(4000, 1000), settings=FAST)
    competence.run(asked, tmp_path / "out", "")
    rows = by_name(tmp_path / "out")
    assert "series/exponent_2" in rows and "series/step=1000/theta" in rows
    alone = Asked((runs[1],), made[1], settings=FAST)
    competence.run(alone, tmp_path / "alone", "")
    theta = by_name(tmp_path / "alone")["p2/step=2/theta"]
    assert rows["series/step=1000/theta"] == theta | {"name": "series/step=1000/theta"}
    # Other parameters under the same spec are another checkpoint.
    scorer = Scorer(lib.read(made[1]), tmp_path / "out" / "scores")
    assert scorer.is_kept(checkpoints([finished_run(runs[0])])[0])
    shutil.rmtree(runs[0] / "checkpoints")
    make_run(runs[0], MODEL, name, "", trained, save=(1,))
    assert not scorer.is_kept(checkpoints([finished_run(runs[0])])[0])
    # Steps are those that --at says.
    only = dataclasses.replace(asked, steps=(1000,))
    assert competence.describe(only, tmp_path)[2:] == [
        line for line in competence.describe(asked, tmp_path) if line.startswith("p2/step=2: ")
    ]
    members, at = competence._members(only)
    assert ([m.run for m in members], at) == (["p2"], (1000,))
    for steps, message in (((2,), "no checkpoint of step 2; --at says 4000, 1000"),
                           ((1000, 1000), "every step once, got 1000 twice")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            competence.describe(dataclasses.replace(asked, steps=steps), tmp_path)
    for at in ((1000,), (1000, 1000)):
        with pytest.raises(UserError, match="as many different numbers in --at as runs"):
            competence.describe(dataclasses.replace(asked, at=at), tmp_path)


def test_what_is_refused_before_anything_is_asked(made, tmp_path):
    run, questions = made
    encoder = make_run(tmp_path / "encoder", ENCODER, save=())
    long = write_questions(tmp_path / "long.jsonl", [
        {"name": "epic", "context": "a" * 60, "target": "b", "skills": ["odd"]}])  # fmt: skip
    absent = make_run(tmp_path / "absent", tokenizer="bpe:257", cache=str(tmp_path), save=(9,))
    other = make_run(tmp_path / "other", trained="0123", save=(9,))
    none = make_run(tmp_path / "none", save=())
    for path, asked, message in (
        (encoder, questions, "encoder, which predicts no next token"),
        (run, long, r"at most 48 tokens .* 1 longer ones: 'epic' \(61\)"),
        (absent, questions, r"'bpe:257' of .*absent is neither in the cache .*as tokenizer"),
        (other, questions, "'bytes' is not the one that .*other was trained with"),
        (none, questions, "none has no checkpoint; train it with train.checkpoint.every"),
        (tmp_path, questions, "neither spec.json nor config.json"),
    ):  # fmt: skip
        for work in (
            lambda asked, out: competence.run(asked, out, ""),
            competence.describe,
        ):
            with pytest.raises(UserError, match=message):
                work(Asked((path,), asked, settings=FAST), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trained_tokenizer_is_found_by_what_it_is(tmp_path):
    """Text that a study invented cannot be opened again; its tokenizer is in the cache."""
    text = tokenizers.train_bpe(["some words to train it on"] * 3, 258)
    for folder, content in (
        ("bpe-258-a", tokenizers.train_bpe(["x y"] * 9, 258)),
        ("bpe-258-b", text),
    ):
        files.write_text(tmp_path / "tokenizers" / folder / "tokenizer.json", content)
    files.write_text(tmp_path / "own.json", text)
    trained = tokenizers.load_tokenizer(str(tmp_path / "own.json"), None, tmp_path).fingerprint
    model = dataclasses.replace(MODEL, vocab_size=258)
    run = make_run(tmp_path / "run", model, "bpe:258", str(tmp_path), trained, save=(9,))
    assert finished_run(run).tokenizer.fingerprint == trained
    files.write_text(tmp_path / "tokenizers" / "bpe-258-b" / "tokenizer.json", "{}")
    assert finished_run(run, str(tmp_path / "own.json")).tokenizer.fingerprint == trained
    with pytest.raises(UserError, match="'bytes' is not the one"):
        _ = finished_run(run, "bytes").tokenizer


def test_a_damaged_checkpoint_is_named(made, undrawn, tmp_path):
    _, questions = made
    run = make_run(tmp_path / "run", save=(0, 9))
    for path in (run / "checkpoints" / "0" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"step 0 in .*run cannot be read; leave it out by --steps"):
        competence.run(Asked((run,), questions, settings=FAST), tmp_path / "out", "")
    gc.collect()  # lets go of the workdir, as the end of a process does
    asked = Asked((run,), questions, steps=(9,), settings=FAST)
    competence.run(asked, tmp_path / "out", "")
    assert "run/step=9/theta" in by_name(tmp_path / "out")


def test_a_log_is_asked_without_a_checkpoint(made, undrawn, tmp_path):
    run = tmp_path / "logged"
    files.write_text(run / "spec.json", (made[0] / "spec.json").read_text())
    probes = [
        Probe(f"{who}/{a}/{kind}", f"{who} has", "it", {"a": a, "who": who, "kind": kind})
        for who in map(str, range(10))
        for a in ("eye", "ear")
        for kind in ("seen", "new")
    ]
    steps = np.arange(0, 40, 2)
    with ProbeLog(run / "probes", probes, [1] * len(probes), steps, steps * 64) as log:
        for step in steps:
            values = np.zeros((len(probes), len(MEASURES)))
            right = np.array([p.labels["a"] == "eye" and step > 20 for p in probes])
            values[:, MEASURES.index("greedy_match")] = right
            values[:, MEASURES.index("logprob_sum")] = np.where(right, -0.1, -1.0)
            log.write(int(step), values)
    how = FromLog("a", (("kind", "seen"),), "who")
    asked = Asked((run,), None, how, settings=FAST)
    assert competence.describe(asked, tmp_path)[1] == "groups: 10; probes: 20"
    competence.run(asked, tmp_path / "out", "")
    rows = by_name(tmp_path / "out")
    thetas = [name for name in rows if name.endswith("/theta")]
    assert len(thetas) == 12 and thetas[0] == "logged/step=0/theta"
    assert rows["logged/step=38/skill/eye/competence"]["value"] == 1
    assert rows["logged/step=38/skill/ear/competence"]["value"] == 0
    assert rows["logged/step=38/theta"]["n"] == 10
    few = dataclasses.replace(asked, steps=(0, 38))
    assert len(competence.describe(few, tmp_path)) == 4
    with pytest.raises(UserError, match="log of logged has no step 3; it has 20 from 0 to 38"):
        competence.describe(dataclasses.replace(asked, steps=(3,)), tmp_path)
    for change, message in (
        ({"runs": (run, run)}, "different names, got 'logged' twice"),
        ({"steps": (38, 0, 38)}, "every step once, got 38 twice"),
    ):
        with pytest.raises(UserError, match=message):
            competence.describe(dataclasses.replace(asked, **change), tmp_path)


def test_questions_of_a_biographies_run(tmp_path):
    config = BiographyConfig(people=20, unseen=4, name_words=10, answers=6)
    record = {"spec": {"biographies": spec.to_json(config)}, "data": {}, "parent": None}
    files.write_json(tmp_path / "run" / "spec.json", record | {"versions": {}})
    out = tmp_path / "q.jsonl"
    assert competence_biographies.write(tmp_path / "run", out) == 20 * (6 + 15)
    labelled = lib.read(out)
    assert set(labelled.skills) == set(biographies.ATTRIBUTES)
    assert set(labelled.choices_T[labelled.sizes_T == 1]) == {3}
    assert set(labelled.choices_T[labelled.sizes_T == 2]) == {9}
    assert labelled.group_T.max() + 1 == 20
    read = {text for _, text in biographies.documents(biographies.invent(config), config.seed)}
    lines = {line for text in read for line in text.split("\n")}
    for question in labelled.questions:
        answer = question.targets[question.answer]
        asked = f"{question.context} {answer}.".split("\n")
        # The right answer is what the corpus says, the others are not.
        assert set(asked) <= lines and len(asked) == len(question.skills)
        wrong = question.targets[question.answer - 1]
        assert not set(f"{question.context} {wrong}.".split("\n")) <= lines
    answers = np.array([q.answer for q in labelled.questions if len(q.targets) == 3])
    assert np.bincount(answers).min() > 20  # of 120: nothing is said by the place
    with pytest.raises(UserError, match="new file"):
        competence_biographies.write(tmp_path / "run", out)
    files.write_json(tmp_path / "run" / "spec.json", record | {"spec": {}, "versions": {}})
    with pytest.raises(UserError, match="run of the biographies study"):
        competence_biographies.write(tmp_path / "run", tmp_path / "new.jsonl")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --run=RUN"),
        (["--run=a"], "either --probes=FILE.jsonl or --log"),
        (["--run=a", "--log", "--at=1"], "a log says its steps"),
        (["--run=a", "--log", "--where=group"], "--where=LABEL=VALUE"),
        (["--run=a", "--log", "--steps=x"], "--steps as numbers by commas, got x"),
        (["--run=a", "--log", "--frequencies=absent"], "JSON object of skills and numbers"),
    ],
)
def test_mistakes_of_flags(flags, message):
    values = dict(
        run=[], probes="", log=False, label="skills", where=[], group="", steps=[], at=[],
        tokenizer="", taus=["0.5"], alphas=["0.1"], level=0.5, frequencies="", fewest=10,
    )  # fmt: skip
    for flag in flags:
        key, _, value = flag[2:].partition("=")
        values[key] = {"log": True}.get(key, [value] if isinstance(values[key], list) else value)
    with pytest.raises(UserError, match=message):
        competence._asked(type("Values", (), values))


def test_a_mistake_is_one_line():
    command = [sys.executable, "-m", "experiments.competence", "--run=absent", "--probes=q.txt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr == "error: expected a labelled probe file, .jsonl or .csv, got q.txt\n"
