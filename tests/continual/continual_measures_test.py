"""Reported quantities against hand-made loss matrices and curves."""

import json

import numpy as np
import pytest

from llm_dynamics.continual import measures
from llm_dynamics.continual.measures import Curves, LossMatrix
from llm_dynamics.errors import UserError
from llm_dynamics.seeds import ONE_SEED

SETS = ("old", "new")


def _matrix(*runs, sets=SETS):
    return LossMatrix(tuple(range(len(runs))), sets, np.array(runs, float))


PLAIN = _matrix([[2.0, 5.0], [3.0, 1.0]], [[2.2, 5.2], [3.6, 1.0]])
REPLAY = _matrix([[2.0, 5.0], [2.2, 1.1]], [[2.2, 5.2], [2.5, 1.3]])


def _named(rows):
    json.dumps(rows, allow_nan=False)
    return {row["name"]: row for row in rows}


def test_rows_of_two_stages():
    curves = Curves((0, 1), SETS, np.array([1, 2]), np.array([[[4, 2], [3, 1]]] * 2, float))
    rows = _named(measures.arm_rows("r", REPLAY, curves, PLAIN))
    values = {name: row["value"] for name, row in rows.items()}
    assert values == pytest.approx(
        {
            "r/adaptation": -3.9,
            "r/backward_transfer": -0.25,
            "r/average": (1.65 + 1.9) / 2,
            "r/old/forgetting": 0.25,
            "r/old/transient_peak": 1.9,
            "r/old/replay_removes": 1 - 0.5 / 2.4,
        }
    )
    assert "not shown" in rows["r/old/forgetting"]["note"]
    assert rows["r/adaptation"]["note"] == "" and rows["r/adaptation"]["high"] < 0
    assert all(row["n"] == 2 for row in rows.values())


def test_one_seed_has_values_and_no_interval():
    one = _matrix([[2.17, 4.0], [2.26, 2.5]])
    plain = _matrix([[2.17, 4.0], [2.44, 2.5]])
    for row in measures.arm_rows("r", one, without_replay=plain):
        assert row["low"] is None and ONE_SEED in row["note"]
    row = _named(measures.arm_rows("r", one, without_replay=plain))["r/old/replay_removes"]
    assert row["value"] == pytest.approx(2 / 3)


def test_three_stages_forget_from_their_own_stage_on():
    m = _matrix([[2, 9, 8], [3, 1, 7], [5, 4, 2]], sets=("a", "b", "c"))
    assert measures.forgetting(m, "a").mean == 3
    assert measures.forgetting(m, "b").mean == 3
    assert measures.forgetting(m, "a", stage=1).mean == 1
    assert measures.adaptation(m).mean == -5
    assert measures.adaptation(m, 1).mean == -8
    assert measures.backward_transfer(m).mean == -3
    with pytest.raises(UserError, match="after the first"):
        measures.adaptation(m, 0)


def test_gap_to_the_union_at_the_cost_of_the_update_and_of_everything():
    union = Curves((0, 1), SETS, np.array([10.0, 30.0]), np.array([[[4, 4], [2, 2]]] * 2, float))
    rows = _named(measures.union_rows("r", REPLAY, [20, 10], union))
    mean = (1.65 + 1.9) / 2
    assert rows["r/gap_update"]["value"] == pytest.approx(mean - 4)
    assert measures.MID_SCHEDULE in rows["r/gap_update"]["note"]
    assert rows["r/gap_total"]["value"] == pytest.approx(mean - 2)
    assert measures.MID_SCHEDULE not in rows["r/gap_total"]["note"]
    assert union.average_at(20).mean == 3
    with pytest.raises(UserError, match="between 10 and 30"):
        measures.union_rows("r", REPLAY, [30, 5], union)
    assert measures.union_rows("r", REPLAY, [20, 10]) == []


def test_a_union_run_of_the_cost_of_the_update_is_read_at_its_end():
    union = Curves((0, 1), SETS, np.array([10.0, 30.0]), np.array([[[4, 4], [2, 2]]] * 2, float))
    update = Curves((0, 1), SETS, np.array([0.0, 10.0]), np.array([[[9, 9], [3, 3]]] * 2, float))
    rows = _named(measures.union_rows("r", REPLAY, [20, 10], union, update))
    assert rows["r/gap_update"]["value"] == pytest.approx((1.65 + 1.9) / 2 - 3)
    assert measures.MID_SCHEDULE not in rows["r/gap_update"]["note"]
    longer = _named(measures.union_rows("r", REPLAY, [20, 13], union, update))
    assert all(measures.LONGER in row["note"] for row in longer.values())
    other = Curves((0, 1), ("old", "else"), update.tokens_S, update.losses_RxSxZ)
    with pytest.raises(UserError, match="expected the union run measured on"):
        measures.union_rows("r", REPLAY, [20, 10], union, other)


def test_the_loss_matrix_is_given_stage_by_data_set():
    rows = _named(measures.matrix_rows("r", REPLAY))
    values = {name: row["value"] for name, row in rows.items()}
    assert values == pytest.approx({"r/after_old/old/loss": 2.1, "r/after_old/new/loss": 5.1})
    assert {row["n"] for row in rows.values()} == {2}


@pytest.mark.parametrize(
    ("tokens", "update", "all_updates"),
    [
        ([300, 300], 0.5, 1 - 2 / 3),
        ([300, 200], 0.6, 1 - 500 / 800),
        ([1, 1, 1, 1], 0.75, 1 - 4 / 10),
    ],
)
def test_saving_of_training_tokens(tokens, update, all_updates):
    rows = _named(measures.saving_rows(dict(zip("abcd", tokens, strict=False))))
    assert rows["update_saving"]["value"] == pytest.approx(update)
    assert rows["updates_saving"]["value"] == pytest.approx(all_updates)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _matrix([[2, 5], [3, 0]]), "above 0"),
        (lambda: _matrix([[2, 5], [np.nan, 1]]), "finite"),
        (lambda: LossMatrix((1, 1), SETS, np.ones((2, 2, 2))), "every seed once"),
        (lambda: LossMatrix((1,), SETS, np.ones((1, 3, 2))), "seeds x stages"),
        (lambda: PLAIN.loss("third", 0), "data set"),
        (lambda: measures.update_saving([300]), "two stages"),
        (lambda: measures.update_saving([300, 0]), "above 0"),
        (lambda: Curves((0,), ("old",), np.array([2, 1]), np.ones((1, 2, 1))), "rise"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
