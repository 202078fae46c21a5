"""Task folders: what a suite becomes, folders that are none, names that are not there."""

import json
import tempfile

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.harness import library, tasks
from llm_dynamics.harness.scorer import bucket
from tests.harness import checkpoints

library.prepare(tempfile.gettempdir())


def test_a_suite_becomes_a_task_file_and_its_questions(tmp_path):
    cloze, choice = checkpoints.SUITES
    assert (tasks.write(cloze, tmp_path), tasks.write(choice, tmp_path)) == ("cloze", "choice")
    task = json.loads((tmp_path / "choice.yaml").read_text())
    assert (task["output_type"], task["doc_to_target"]) == ("multiple_choice", "right")
    assert task["metadata"] == {
        "version": tasks.VERSION, "source": "made up", "licence": "none", "attribution": "nobody",
    }  # fmt: skip
    (first, *_) = [json.loads(line) for line in (tmp_path / "cloze.jsonl").open()]
    assert first == {
        "name": "France",
        "context": "The capital of France is",
        "labels": {"side": "west"},
        "continuation": " Paris",
    }
    manager = tasks.manager([tmp_path])
    tasks.check(manager, ["cloze", "choice"])
    with pytest.raises(UserError, match="unknown task 'cloce'; did you mean 'cloze'"):
        tasks.check(manager, ["cloce"])


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="expected a folder with task files"):
        tasks.manager([tmp_path / "none"])


def test_not_installed(monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected lm-eval and transformers .*EXTRAS=eval"):
        library.prepare()


def test_lengths_share_programs():
    sizes = [bucket(n) for n in range(1, 5000)]
    assert all(n <= size <= max(32, 1.5 * n) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 16
    assert np.all(np.diff(sizes) >= 0)
