"""Questions along checkpoints: hand-made outcomes, intervals that cover, choices of a log."""

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.skills.learning_rows import median_row, paired_share, rows
from llm_dynamics.skills.trajectories import Trajectories, learning, trajectories

STEPS = np.array([0, 10, 100, 1000])
# A row a question, a column a checkpoint.
RIGHT = np.array(
    [
        [0, 0, 0, 0],  # never
        [1, 1, 1, 1],  # always
        [0, 1, 1, 1],  # learned at 10
        [0, 1, 0, 1],  # forgotten once, right again at the end
        [0, 0, 1, 0],  # forgotten at the end
        [1, 0, 1, 0],  # forgotten twice
    ],
    bool,
).T


def made(right_SxI=RIGHT, groups=None, labels=None, choices=1):
    count = right_SxI.shape[1]
    return Trajectories(
        STEPS, STEPS * 8, tuple(map(str, range(count))), labels or {},
        np.arange(count) if groups is None else np.asarray(groups), np.full(count, choices),
        right_SxI, np.where(right_SxI, -0.5, -2.0),
    )  # fmt: skip


def by_name(found):
    return {row["name"]: row for row in found}


def test_learning_and_forgetting_of_hand_made_outcomes():
    of = learning(RIGHT)
    assert of.first_I.tolist() == [4, 0, 1, 1, 2, 0]
    assert of.kept_I.tolist() == [4, 0, 1, 3, 4, 4]
    assert of.events_I.tolist() == [0, 0, 0, 1, 1, 2]
    found = by_name(rows(made()))
    values = {name.removeprefix("all/"): row["value"] for name, row in found.items()}
    assert values["ever"] == 5 / 6
    assert values["forgotten"] == 2 / 6 and values["forgotten_of_ever"] == 2 / 5
    assert values["unforgotten"] == 2 / 5 and values["events"] == 4 / 5
    assert values["first_right"] == 10  # of 0, 0, 10, 10, 100, never: the third
    assert values["kept_right"] == 1000  # of 0, 10, 1000, never three times
    assert values["step=10/right"] == 0.5 and values["step=10/logprob"] == -1.25
    assert values["last-first/right"] == pytest.approx(1 / 6)
    assert values["last-first/logprob"] == pytest.approx(0.25)
    assert values["best/right"] == 100 and values["chance"] == 0
    row = found["all/step=10/right"]
    assert row["low"] == pytest.approx(0.1876, abs=1e-4)  # Wilson, 3 of 6
    assert all(row["unit"] and row["n"] >= 2 and row["definition"] for row in found.values())
    assert found["all/events"]["unit"] == "1"


def test_values_of_a_label_are_parts_of_all():
    label = np.array(["a", "a", "a", "b", "b", "b"])
    found = by_name(rows(made(labels={"kind": label}), "kind"))
    parts = [found[f"kind={v}/step=100/right"]["value"] for v in "ab"]
    assert parts == [2 / 3, 2 / 3] and found["all/step=100/right"]["value"] == 2 / 3
    assert found["kind=b/forgotten"]["value"] == 2 / 3
    assert found["kind=a/kept_right"]["value"] == 10
    with pytest.raises(UserError, match="no label 'kin'; did you mean 'kind'"):
        rows(made(labels={"kind": label}), "kin")
    many = made(np.zeros((4, 41), bool), labels={"one": np.arange(41).astype(str)})
    with pytest.raises(UserError, match="at most 40 values, got 'one' of 41"):
        rows(many, "one")


def test_what_never_happens_has_no_number_and_says_so():
    found = by_name(rows(made(np.zeros((4, 5), bool))))
    for key, note in (
        ("first_right", "fewer than half"), ("events", "no question is ever right"),
        ("forgotten_of_ever", "no question is ever right"),
    ):  # fmt: skip
        assert found[f"all/{key}"]["value"] is None and note in found[f"all/{key}"]["note"]
    assert "all questions agree" in found["all/step=0/logprob"]["note"]
    one = by_name(rows(made(groups=[0] * 6)))
    assert "one group of questions" in one["all/step=0/logprob"]["note"]
    for key in ("right", "logprob"):
        row = one[f"all/last-best/{key}"]
        assert (row["value"], row["low"], row["note"]) == (None, None, "one group of questions")
    two = by_name(rows(made(groups=[0, 1] * 3)))
    assert two["all/last-best/right"]["value"] is not None


def test_shares_of_few_groups_say_that_they_are_too_short():
    right = np.repeat(RIGHT, 4, axis=1)
    few, enough = (by_name(rows(made(right, groups=np.arange(24) % n))) for n in (9, 10))
    for key in ("step=10/right", "last-first/right", "last-best/right", "ever", "unforgotten"):
        assert "few groups: the interval is too short" in few[f"all/{key}"]["note"], key
        assert "few groups" not in enough[f"all/{key}"]["note"], key
    assert "few groups" not in few["all/last-first/logprob"]["note"]


def test_groups_widen_intervals():
    right = np.repeat(np.random.default_rng(0).random((4, 30)) < [[0.2], [0.4], [0.6], [0.8]], 5, 1)
    alone, together = (
        by_name(rows(made(right, groups=g))) for g in (None, np.repeat(np.arange(30), 5))
    )
    for key in ("step=100/logprob", "step=100/right", "last-first/right", "last-first/logprob"):
        widths = [f[f"all/{key}"]["high"] - f[f"all/{key}"]["low"] for f in (alone, together)]
        assert widths[1] > 1.8 * widths[0], key
        assert together[f"all/{key}"]["n"] == 30


def test_intervals_cover_in_simulations():
    rng = np.random.default_rng(1)
    covered, medians = [], []
    for _ in range(300):
        change = rng.choice([-1, 0, 1], 40, p=[0.1, 0.6, 0.3])
        ends = paired_share(change, np.arange(40))
        covered.append(ends.low[0] <= 0.2 <= ends.high[0])
    for _ in range(40):
        at = rng.choice(5, 45, p=[0.1, 0.15, 0.3, 0.2, 0.25])  # the median is checkpoint 2
        row = median_row("m", at, STEPS, np.arange(45), "", "")
        value = row["value"]
        medians.append(value == 100 if row["low"] is None else row["low"] <= 100 <= row["high"])
    assert 0.92 <= np.mean(covered) <= 0.99
    # Gains alone, of questions in pairs that go together: worth half as many, losses too.
    gains = np.repeat(rng.random(60) < 0.3, 2).astype(int)
    pairs, halves = paired_share(gains, np.repeat(np.arange(60), 2)), gains[::2]
    alone = paired_share(halves, np.arange(60))
    np.testing.assert_allclose([pairs.low, pairs.high], [alone.low, alone.high], rtol=0.05)
    assert pairs.low[0] > 0
    assert np.mean(medians) >= 0.92


def test_the_best_checkpoint_is_not_flattered():
    """Where nothing differs between checkpoints, one picked on the same questions would win."""
    rng = np.random.default_rng(2)
    shown = 0
    for _ in range(60):
        found = by_name(rows(made(rng.random((4, 60)) < 0.5)))
        row = found["all/last-best/right"]
        shown += "not shown" not in row["note"]
    assert shown <= 6


def logged(path, probes, values):
    steps = np.array([0, 5])
    with ProbeLog(path, probes, [1] * len(probes), steps, steps * 10) as log:
        for step, value in zip(steps, values, strict=True):
            log.write(int(step), value)
    return open_log(path)


def choice(item, number, right, **labels):
    own = {"item": item, "choice": str(number), "right": right, "kind": "c"} | labels
    return Probe(f"{item}/{number}", "which is", f"t{number}", own)


def test_choices_and_targets_of_a_log(tmp_path):
    probes = [
        choice("x", 0, "no"), choice("x", 1, "yes"),
        Probe("plain", "it is", "so", {"kind": "t", "group": "g"}),
        choice("y", 0, "yes"), choice("y", 1, "no"), choice("y", 2, "no"),
    ]  # fmt: skip
    values = np.zeros((2, 6, len(MEASURES)))
    total, mean, greedy = (
        MEASURES.index(name) for name in ("logprob_sum", "logprob_mean", "greedy_match")
    )
    values[0, :, total] = [-3, -2, -9, -2, -2, -5]  # y is a tie
    values[1, :, total] = [-1, -2, -9, -1, -2, -5]
    values[:, :, mean] = values[:, :, total] / 2
    values[1, 2, greedy] = 1
    found = trajectories(logged(tmp_path / "log", probes, values))
    assert found.names == ("x", "plain", "y") and found.choices_I.tolist() == [2, 1, 3]
    assert found.right_SxI.tolist() == [[True, False, False], [False, True, True]]
    assert found.logprob_SxI.tolist() == [[-1, -4.5, -1], [-1, -4.5, -0.5]]
    assert set(found.labels) == {"kind", "group"} and found.labels["kind"].tolist() == list("ctc")
    assert len(set(found.group_I)) == 3
    assert by_name(rows(found))["all/chance"]["value"] == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    grouped = trajectories(open_log(tmp_path / "log"), group="kind")
    assert grouped.group_I.tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="no label 'kin'"):
        trajectories(open_log(tmp_path / "log"), group="kin")
    values[1] = np.nan
    with pytest.raises(UserError, match="finite scores"):
        trajectories(logged(tmp_path / "nan", probes, values))
    two = [choice("x", 0, "yes"), choice("x", 1, "yes")]
    with pytest.raises(UserError, match="one right choice of the item 'x'"):
        trajectories(logged(tmp_path / "two", two, np.ones_like(values[:, :2])))
