"""The command on tiny checkpoints of every kind: one log, gone on with, refused by name."""

import dataclasses
import errno
import gc
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import competence, series
from experiments.series import Asked
from llm_dynamics.errors import UserError
from llm_dynamics.probe import log as log_lib
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.skills.asked import Settings
from llm_dynamics.suites import Item, Suite
from llm_dynamics.train.series import OwnCheckpoint
from tests.hub import checkpoint_folders as made_of
from tests.hub.checkpoint_folders import REPO, STEPS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same checkpoints of three kinds, and a file of probes."""
    root = tmp_path_factory.mktemp("series")
    run = made_of.own_run(root / "run")
    folders = made_of.exported(run, root / "tiny")
    lines = []
    for i in range(8):
        lines.append(
            {"context": f"n{i} is", "target": "a red fox", "skills": ["x"], "kind": "ab"[i % 2]}
        )
        lines.append({"context": f"m{i} has", "choices": ["a tail", "two"], "answer": i % 2,
            "skills": ["x", "y"], "kind": "ab"[i % 2]})  # fmt: skip
    probes = root / "p.jsonl"
    probes.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return run, folders, made_of.cached(folders, root / "home"), str(probes)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages are drawn once; elsewhere they only take time."""
    monkeypatch.setattr(series, "write_report", lambda workdir, study: workdir)
    yield
    gc.collect()  # lets go of the workdirs, as the end of a process does


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    run, _, _, probes = made
    workdir = tmp_path_factory.mktemp("work") / "own"
    asked = Asked((str(run),), probes, by="kind")
    before = series.describe(asked, workdir)
    assert not workdir.exists()
    page = series.run(asked, workdir, "launch/local series")
    return asked, workdir, before, page


def by_name(workdir):
    return {row["name"]: row for row in json.loads((workdir / "results.json").read_text())}


def test_a_series_is_asked_and_reported(finished):
    asked, workdir, before, page = finished
    assert before[0] == "probes: 24 of p.jsonl; labels: choice, item, kind, right, skills"
    assert before[2:] == [
        "step 0: run: to be asked", "step 4, 256 tokens: run: to be asked",
        "step 9, 576 tokens: run: to be asked",
    ]  # fmt: skip
    assert series.describe(asked, workdir)[-1].endswith("answered before")
    log = open_log(workdir / "probes")
    assert log["step"].values.tolist() == list(STEPS)
    assert log["tokens"].values.tolist() == [0, 256, 576]
    assert np.isfinite(log["score"].values).all()
    assert set(log["skills"].values) == {"x", "x+y"} and set(log["kind"].values) == {"a", "b"}
    rows = by_name(workdir)
    assert rows["all/questions"]["value"] == 16 and rows["all/chance"]["value"] == 0.25
    # The mean over targets and right choices, from the log itself.
    scored = ~(log["right"].values == "no")
    mean = log["score"].sel(measure="logprob_mean").values[:, scored].mean(axis=1)
    for step, value in zip(STEPS, mean, strict=True):
        assert rows[f"all/step={step}/logprob"]["value"] == pytest.approx(value, rel=1e-5)
        assert f"kind=a/step={step}/right" in rows
    text = page.read_text()
    assert "run over training time" in text and "Toneva" in text
    for name in ("curves", "remembered", "questions"):
        assert (workdir / "figures" / f"{name}.csv").stat().st_size


def test_logs_are_equal_to_the_bit_whatever_the_checkpoints_lie_in(
    made, finished, undrawn, tmp_path, monkeypatch
):
    """Bits, since all are float32, read as they were written, in one program."""
    _, folders, home, probes = made
    monkeypatch.setenv("HF_HOME", str(home))
    wanted = open_log(finished[1] / "probes")
    for name, checkpoints in (
        ("folders", tuple(str(folders / f"step{step}") for step in (9, 0, 4))),
        ("revisions", (f"{REPO}@step*",)),
    ):
        asked = Asked(checkpoints, probes, by="kind", tokens_per_step=64)
        series.run(asked, tmp_path / name, "")
        found = open_log(tmp_path / name / "probes")
        assert found["score"].values.tobytes() == wanted["score"].values.tobytes()
        for coordinate in wanted.coords:
            np.testing.assert_array_equal(found[coordinate].values, wanted[coordinate].values)
        assert by_name(tmp_path / name) == by_name(finished[1])
    # So are the answers of the other study that asks checkpoints.
    labelled = tmp_path / "labelled.jsonl"
    lines = [json.loads(line) for line in Path(probes).read_text().splitlines()]
    labelled.write_text("\n".join(json.dumps({k: v for k, v in line.items() if k != "kind"})
        for line in lines))  # fmt: skip
    monkeypatch.setattr(competence, "write_report", lambda workdir, study: workdir)
    for name, of in (("run", str(made[0])), ("tiny", f"{folders}/step*")):
        out, fast = tmp_path / f"competence-{name}", Settings(resamples=50)
        competence.run(competence.Asked((of,), labelled, settings=fast), out, "")
    own, theirs = (by_name(tmp_path / f"competence-{name}") for name in ("run", "tiny"))
    assert "tiny/step=4/skill/x/competence" in theirs and len(own) == len(theirs)
    for name, row in own.items():
        assert theirs[name.replace("run/", "tiny/")] | {"name": name} == row
    # It is the log that a training run writes: of the same parts, and read by the same studies.
    how = competence.FromLog("skills", (), "kind")
    question = competence.Asked(
        (tmp_path / "revisions",), None, how, settings=Settings(resamples=50)
    )
    lines = competence.describe(question, tmp_path)
    assert lines[0].startswith("questions: 16 (probe log, skills from the label skills) about 2")
    assert lines[1] == "groups: 2; probes: 24" and lines[-1] == "revisions/step=9: in the log"


def test_it_goes_on_where_it_was_stopped(made, finished, undrawn, tmp_path, monkeypatch):
    """By a kill, by a full disk and by a checkpoint that diverged: what was answered is kept."""
    run, _, _, probes = made
    asked, out, read = Asked((str(run),), probes, by="kind"), tmp_path / "out", []
    params, replacing = OwnCheckpoint.params, log_lib.replacing

    def stopped():
        raise KeyboardInterrupt

    def full(*unused):
        raise OSError(errno.ENOSPC, "No space left on device")

    def reading(fault):
        def read_params(self):
            read.append(self.step)
            found = params(self)
            return fault(found) if self.step == 4 else found

        return read_params

    for fault, kind, message in (
        (lambda found: stopped(), KeyboardInterrupt, ""),
        (lambda found: monkeypatch.setattr(log_lib, "replacing", full) or found, UserError,
         r"the disk of .* is full: .* run the same command again"),
        (lambda found: jax.tree.map(lambda x: x * np.nan, found), UserError,
         r"run, step 4: expected finite scores.*leave it out by --steps"),
    ):  # fmt: skip
        monkeypatch.setattr(OwnCheckpoint, "params", reading(fault))
        with pytest.raises(kind, match=message or None):
            series.run(asked, out, "")
        monkeypatch.setattr(log_lib, "replacing", replacing)
        gc.collect()
        lines = series.describe(asked, out)
        assert [line.endswith("answered before") for line in lines[2:]] == [True, False, False]
    monkeypatch.setattr(OwnCheckpoint, "params", reading(lambda found: found))
    series.run(dataclasses.replace(asked, steps=(0, 9)), out, "")
    assert "all/step=9/right" in by_name(out) and "all/step=4/right" not in by_name(out)
    series.run(asked, out, "")
    series.run(asked, out, "")
    assert read == [0, 4, 4, 4, 9, 4]
    assert by_name(out) == by_name(finished[1])
    wanted = open_log(finished[1] / "probes")["score"].values
    assert open_log(out / "probes")["score"].values.tobytes() == wanted.tobytes()


def test_new_checkpoints_join_and_old_ones_stay(made, finished, undrawn, tmp_path, monkeypatch):
    _, folders, _, probes = made
    part = tmp_path / "tiny"
    for step in (0, 9):
        shutil.copytree(folders / f"step{step}", part / f"step{step}")
    asked = Asked((f"{part}/step*",), probes, by="kind", tokens_per_step=64)
    out = tmp_path / "out"
    series.run(asked, out, "")
    assert open_log(out / "probes")["step"].values.tolist() == [0, 9]
    shutil.copytree(folders / "step4", part / "step4")
    shutil.rmtree(part / "step0")
    # A kill between the two renamings leaves the old log aside.
    (out / "probes").rename(out / "probes.old")
    (out / "probes.next").mkdir()
    series.run(asked, out, "")
    assert by_name(out) == by_name(finished[1])
    assert sorted(p.name for p in out.iterdir() if p.name.startswith("probes")) == ["probes"]
    one = dataclasses.replace(asked, steps=(4,))
    series.run(one, out, "")
    assert "all/step=4/right" in by_name(out) and "all/step=9/right" not in by_name(out)
    assert open_log(out / "probes")["step"].values.tolist() == [0, 4, 9]
    # The weights of an answered checkpoint have changed.
    shutil.copyfile(folders / "step0" / "model.safetensors", part / "step9" / "model.safetensors")
    with pytest.raises(UserError, match=r"step 9 of the log .* answered by another checkpoint"):
        series.run(asked, out, "")


def test_probes_of_a_log_and_of_a_suite(made, finished, undrawn, tmp_path, monkeypatch):
    run, _, _, _ = made
    asked = Asked((str(run),), str(finished[1]), by="kind")
    for one, other in zip(
        series._probes(asked).probes, series._probes(finished[0]).probes, strict=True
    ):
        assert (one.name, one.context, one.target) == (other.name, other.context, other.target)
        assert {key: label for key, label in one.labels.items() if label} == other.labels
    series.run(asked, tmp_path / "out", "")
    assert by_name(tmp_path / "out") == by_name(finished[1])
    with ProbeLog(tmp_path / "bare" / "probes", [Probe("p", "a fox is", "red")], [1], [0], [0]):
        assert series._probes(dataclasses.replace(asked, probes=str(tmp_path / "bare"))).probes == [
            Probe("p", "a fox is", "red", {})
        ]
    items = [Item(f"i{n}", f"m{n} is", ("red", "two"), "red", {"of": str(n // 2)}) for n in (1, 2)]
    suite = Suite("them", "choice", tuple(items), "s", "l", "a", group="of")
    monkeypatch.setattr(series.suites, "load", lambda name, cache: {"them": suite}[name])
    asked = Asked((str(run),), "suite:them", steps=(9,))
    series.run(asked, tmp_path / "suite", "")
    row = by_name(tmp_path / "suite")["all/step=9/right"]
    assert row["n"] == 2 and by_name(tmp_path / "suite")["all/chance"]["value"] == 0.5
    assert "all/ever" not in by_name(tmp_path / "suite")


def test_what_is_refused_before_anything_is_asked(made, tmp_path):
    run, folders, _, probes = made

    def file(*lines):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        return str(path)

    good = {"context": "a fox is", "target": "red"}
    for asked, message in (
        (Asked((str(run),), str(tmp_path / "absent")), "expected --probes as a file"),
        (Asked((str(run),), "n" * 300), "expected --probes as a file"),
        (Asked((str(run),), str(run)), "expected a probe log at .*run/probes, found nothing"),
        (Asked((str(run),), probes, by="kin"), "no label 'kin'; did you mean 'kind'"),
        (Asked((str(run),), file(*({"context": f"{n} is", "target": "red", "of": n}
            for n in range(41))), by="of"), "at most 40 values, got 'of' of 41"),
        (Asked((str(run),), file(good | {"context": "a " * 90 + "fox"})), "at most 48 tokens"),
        (Asked((str(run),), file(good, good)), r":2: the same question is also at .*:1"),
        (Asked((str(run),), file(good | {"step": "1"})), ":1: the field 'step' cannot be a label"),
        (Asked((str(run),), file(good | {"x": {}})), ":1: expected the label 'x' as a text"),
        (Asked((str(run),), file(good | {"target": " red"})), "1 of 1 probes cannot be scored"),
        (Asked((str(run), str(folders / "step4")), probes), "two checkpoints of step 4"),
        (Asked((str(run),), probes, tokenizer="bytes"), "'bytes' is not the one that"),
    ):  # fmt: skip
        for work in (series.describe, lambda asked, out: series.run(asked, out, "")):
            with pytest.raises(UserError, match=message):
                work(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_workdir_holds_one_series(made, finished, undrawn, tmp_path):
    asked, workdir, _, _ = finished
    gc.collect()
    other = made_of.own_run(tmp_path / "other", (9,))
    for change, message in (
        ({"checkpoints": (str(other),)}, r"checkpoints: .*/run'\] -> .*/other'"),
        ({"at": (1, 2, 3)}, r"at: \[\] -> \[1, 2, 3\]"),
        ({"probes": str(workdir)}, r"questions: 24 of p.jsonl, \w+ -> 24 of the log of own"),
    ):
        with pytest.raises(UserError, match=message):
            series.run(dataclasses.replace(asked, **change), workdir, "")
        gc.collect()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoints": []}, "expected --checkpoints=A,B"),
        ({"probes": ""}, "expected --probes"),
        ({"at": ["x"]}, "--at as numbers by commas, got x"),
        ({"tokens_per_step": -1}, "of 0 or more, got -1"),
    ],
)
def test_mistakes_of_flags(change, message):
    values = dict(
        checkpoints=["a"], probes="p.csv", at=[], steps=[], tokens_per_step=0, by="", group="",
        tokenizer="", ignore=[],
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        series._asked(type("Values", (), values | change))
    assert series.default_workdir(Asked(("x/run", "them/tiny@step*"), "suite:cloze")) == Path(
        "runs/series-run-tiny_step_-cloze"
    )
