"""Rows of forgetting from logs whose law is known."""

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.facts import decay_models, results
from tests.facts.simulate import make_log

SCHEDULE = {"once": (0,), "control": ()}
AT = "once/memorization"
T = np.arange(1, 802) - 1.0  # steps since the maximum, one step after the encounter


def _rows(retained, last=801, gain=1.0, facts=12, schedule=SCHEDULE, noise=0.02):
    """Of a log in which facts keep `retained` of their gain from one step on."""
    log = make_log(schedule, last, facts_per_arm=facts, noise=noise, gains={"once": (0, 0)})
    rng = np.random.default_rng(0)
    score = log["score"].values.copy()
    for fact in np.unique(log["fact"].values[log["arm"].values == "once"]):
        probes = np.flatnonzero(log["fact"].values == fact)
        own = gain * (1 + 0.2 * rng.standard_normal())
        score[1:, probes, 0] += (own * retained[:last])[:, None]
    log["score"].values[:] = score
    return {row["name"]: row for row in results.compute(log, schedule, 1, resamples=200)}


class LinesTest(parameterized.TestCase):
    @parameterized.parameters("a", "a_binned", "a_gls")
    def test_every_line_finds_the_slope(self, name):
        rows = _rows(1 - 0.25 * np.log10(np.maximum(T, 1)))
        row = rows[f"{AT}/decay/subtracted/{name}"]
        self.assertAlmostEqual(row["value"], 0.25, delta=0.01)
        self.assertBetween(0.25, row["low"], row["high"])
        self.assertLess(row["high"] - row["low"], 0.05)
        self.assertEqual("first steps" in row["note"], name != "a")

    @parameterized.parameters(
        (0.5, "inside"), (0.25, "extrapolated by 1.1 decades"), (-0.02, "unbounded")
    )
    def test_threshold_says_whether_the_data_reach_it(self, a, status):
        rows = _rows(1 - a * np.log10(np.maximum(T, 1)))
        for unit in ("steps", "tokens"):
            row = rows[f"{AT}/decay/subtracted/x_intercept_{unit}"]
            self.assertStartsWith(row["note"], status)
            if a > 0:
                more = np.log10(4096) if unit == "tokens" else 0
                self.assertAlmostEqual(row["value"], 1 / a + more, delta=0.15)
                self.assertLess(row["low"], row["high"])
            else:
                self.assertIsNone(row["value"])


class FormsTest(parameterized.TestCase):
    @parameterized.parameters("log_linear", "power", "exponential")
    def test_the_true_form_predicts_best(self, true):
        values = {"log_linear": (0.2, 1.0), "power": (1.0, 0.3), "exponential": (1.0, 2.3)}
        form = decay_models.FORMS[true]
        rows = _rows(
            form.value(np.maximum(T, 0.0 if true == "exponential" else 1.0), *values[true])
        )
        errors = {
            name: rows[f"{AT}/forgetting/{name}/heldout_error"] for name in decay_models.FORMS
        }
        self.assertLess(errors[true]["value"], 0.03)
        self.assertBetween(errors[true]["value"], errors[true]["low"], errors[true]["high"])
        self.assertIn(f"{form.names[0]} = ", errors[true]["note"])
        for other in values:
            if other == true:
                continue
            self.assertGreater(errors[other]["value"], 2 * errors[true]["value"])
            if true == "log_linear":
                self.assertGreater(rows[f"{AT}/forgetting/{other}/less_log_linear"]["low"], 0)
        if true != "log_linear":
            row = rows[f"{AT}/forgetting/{true}/less_log_linear"]
            self.assertLess(row["high"], 0)
            self.assertEqual(row["note"], "")

    def test_what_the_data_do_not_tell_apart_is_not_shown(self):
        """On the held-out times a power law with a floor of next to nothing is the power law."""
        rows = _rows(np.full(len(T), 1.0), noise=0.1)
        row = rows[f"{AT}/forgetting/power/less_log_linear"]
        self.assertBetween(0.0, row["low"], row["high"])
        self.assertEqual(row["note"], "not shown: the interval includes 0")


OTHERS = [
    "decay/subtracted/a_binned",
    "decay/subtracted/a_gls",
    "forgetting/log_linear/heldout_error",
    "forgetting/power/less_log_linear",
]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gain": 0.0}, "not shown to be positive"),
        ({"last": 4}, "fewer than 5 steps"),
        ({"schedule": {"once": (0,)}}, "no never-injected control"),
        ({"facts": 1}, "not shown to be positive"),
    ],
)
def test_what_cannot_be_said_is_none_with_the_reason(name, changes, why):
    rows = _rows(1 - 0.25 * np.log10(np.maximum(T, 1)), **changes)
    row = rows[f"{AT}/{name}"]
    assert row["value"] is None and row["low"] is None and why in row["note"]


def test_lines_need_fewer_steps_than_forms():
    rows = _rows(1 - 0.25 * np.log10(np.maximum(T, 1)), last=20)
    assert rows[f"{AT}/decay/subtracted/a_gls"]["value"] is not None
    for name in ("power/heldout_error", "power/less_log_linear"):
        row = rows[f"{AT}/forgetting/{name}"]
        assert row["value"] is None and "too few steps" in row["note"]
