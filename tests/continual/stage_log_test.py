"""Arms read from run folders that are written by hand."""

import json

import numpy as np
import pytest

from llm_dynamics.continual import law_rows
from llm_dynamics.continual.stage_log import read_arm
from llm_dynamics.errors import UserError

DATASETS = {"old": (("a", 1.0), ("b", 3.0)), "new": (("c", 1.0),)}


def _write(path, steps, losses, parent=None, every=2):
    """A run of 10 tokens a step; `losses` gives those of a, b, c after some steps."""
    path.mkdir(parents=True)
    record = {
        "spec": {"train": {"steps": steps}},
        "data": {"tokens_per_step": 10, "ledger": {"c": {"new": 9, "replayed": 1, "repeated": 0}}},
        "parent": parent and {"run": str(parent), "step": 4},
        "versions": {},
    }
    (path / "spec.json").write_text(json.dumps(record))
    lines = []
    for step in range(steps + 1):
        row = {"step": step} | ({"learning_rate": 0.1 / (1 + step)} if step < steps else {})
        if step % every == 0 or step == steps:
            a, b, c = losses(step)
            row |= {"validation_loss/a": a, "validation_loss/b": b, "validation_loss/c": c}
        lines.append(json.dumps(row))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folders(tmp_path):
    for seed in (0, 1):
        old = tmp_path / f"old-{seed}"
        _write(old, 4, lambda s, seed=seed: (4.0 - 0.1 * s, 4.0 - 0.1 * s, 5.0 + seed))
        elsewhere = tmp_path.parent / "moved" / f"old-{seed}"  # the study was moved since
        _write(
            tmp_path / f"new-{seed}", 6, lambda s: (4.0, 3.6 + 0.2 * s, 5.0 - 0.1 * s), elsewhere
        )
    return {seed: tmp_path / f"new-{seed}" for seed in (0, 1)}


def test_matrix_curves_and_tokens(folders):
    arm = read_arm(folders, DATASETS)
    matrix = arm.matrix.losses_RxUxZ
    np.testing.assert_allclose(matrix[0], [[3.6, 5.0], [0.25 * 4.0 + 0.75 * 4.8, 4.4]])
    np.testing.assert_allclose(matrix[1, 0], [3.6, 6.0])
    assert arm.tokens == (40, 60)
    np.testing.assert_array_equal(arm.curves.tokens_S, [0, 20, 40, 60])
    assert arm.runs[0].ledger == {"c": {"new": 9, "replayed": 1, "repeated": 0}}


def test_curves_of_the_law_run_over_both_stages(folders):
    arm = read_arm(folders, DATASETS)
    curve = arm.law_curves("new", 0.25)[1]
    np.testing.assert_array_equal(curve.steps_S, [2, 4, 6, 8, 10])
    np.testing.assert_allclose(curve.losses_S, [6.0, 6.0, 4.8, 4.6, 4.4])
    assert (curve.start, curve.replay, curve.seed, len(curve.rates_T)) == (4, 0.25, 1, 10)
    np.testing.assert_allclose(curve.rates_T[[0, 3, 4, 9]], [0.1, 0.025, 0.1, 0.1 / 6])
    later = arm.law_curves("new", first=False)[0]
    np.testing.assert_array_equal(later.steps_S, [6, 8, 10])


def test_runs_from_fresh_parameters_have_no_matrix(tmp_path):
    _write(tmp_path / "union", 6, lambda s: (4.0, 4.0, 5.0))
    arm = read_arm({0: tmp_path / "union"}, DATASETS)
    assert arm.matrix is None and arm.tokens == (60,)
    assert arm.law_curves("old")[0].start == 6


def test_what_a_stage_read_and_did_with_the_optimizer(tmp_path, folders):
    arm = read_arm(folders, DATASETS)
    assert arm.runs[0].sources == () and arm.runs[0].optimizer == "" and not arm.on_old_data
    for name, source in (
        ("old-0", "a#text@0.25"),
        ("new-0", "c@2"),
        ("old-1", "a"),
        ("new-1", "a"),
    ):
        path = tmp_path / name / "spec.json"
        record = json.loads(path.read_text())
        record["spec"]["data"] = {"sources": [source, "b@0.75"] if source != "c@2" else [source]}
        record["spec"]["train"]["start"] = {"optimizer": "reset"}
        path.write_text(json.dumps(record))
    new, same = (read_arm({seed: folders[seed]}, DATASETS) for seed in (0, 1))
    assert new.before[0].sources == ("a#text", "b") and new.runs[0].sources == ("c",)
    assert new.runs[0].optimizer == "reset"
    assert same.on_old_data and not new.on_old_data


def test_curves_have_the_name_of_their_arm_and_first_stages_their_own(folders):
    arm = read_arm(folders, DATASETS)
    assert {curve.arm for curve in arm.law_curves("old", arm="floor")} == {"floor"}
    first, second = arm.first_curves("new")
    assert (first.seed, second.seed, first.start) == (0, 1, len(first.rates_T))
    np.testing.assert_array_equal(second.steps_S, [2, 4])
    np.testing.assert_allclose(second.losses_S, [6.0, 6.0])


def test_what_is_missing_is_named(tmp_path, folders):
    with pytest.raises(UserError, match=r"validation_loss/d .* data.also_validate"):
        read_arm(folders, DATASETS | {"new": (("c", 1.0), ("d", 1.0))})
    lines = (folders[0] / "metrics.jsonl").read_text().splitlines()
    (folders[0] / "metrics.jsonl").write_text("\n".join(lines[:4]) + "\n")
    with pytest.raises(UserError, match=r"expected 6 updates .* got 4; run the same"):
        read_arm(folders, DATASETS)


def test_too_little_to_fit_a_law_is_said(folders):
    arm = read_arm(folders, DATASETS)
    rows = law_rows.held_out_rows("x", {"one": arm, "two": arm}, {"one": 0.0, "two": 0.0})
    assert [row["name"] for row in rows][:2] == ["x/one/old/law_error", "x/one/new/law_error"]
    assert all(row["value"] is None and "fewer than two" in row["note"] for row in rows)
