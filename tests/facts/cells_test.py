"""Cells whose facts have encounters of their own, against each fact by itself."""

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, estimates, measures
from tests.facts.simulate import make_log

WINDOW = 6
TIMES = {"a": (3, 10, 12), "b": (5, 11), "c": (3, 10, 12)}  # 2 steps apart: a shorter window
STEPS = 40


def _log():
    rng = np.random.default_rng(0)
    facts = [*TIMES, *TIMES, "x", "y", "x", "y"]
    arms = ["rare"] * 6 + ["control"] * 4
    depth = ["memorization"] * 3 + ["semantic"] * 3 + ["memorization"] * 2 + ["semantic"] * 2
    met = [" ".join(map(str, TIMES.get(fact, ()))) for fact in facts]
    scores = rng.normal(size=(STEPS + 1, len(facts), 3)).astype(np.float32)
    coords = {"fact": facts, "arm": arms, "depth": depth, "attribute": facts, "encounters": met}
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), scores)},
        {
            "step": np.arange(STEPS + 1),
            "tokens": ("step", np.arange(STEPS + 1) * 100),
            "probe": [f"{fact}/{d}" for fact, d in zip(facts, depth, strict=True)],
            "measure": ["logprob_mean", "greedy_match", "rank_first"],
            **{key: ("probe", value) for key, value in coords.items()},
        },
    )


class OwnTimesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.study = estimates.open_study(_log(), {"rare": ()}, WINDOW, 0, 20)
        self.table = self.study.table

    def test_every_fact_as_by_itself(self):
        cell = self.study.cell("rare", "semantic")
        self.assertEqual((cell.fact_P, cell.last), (("a", "b", "c"), 11))
        self.assertEqual(cell.effectivity_UxP.shape, (3, 3))
        self.assertLen(cell.offsets_T, STEPS - 12 - WINDOW + 1)
        for p, fact in enumerate(TIMES):
            scores_S = self.table.loglik_SxP[:, 3 + p]
            times = TIMES[fact]
            np.testing.assert_array_equal(cell.change_SxP[:, p], scores_S - scores_S[times[0]])
            for u, t in enumerate(times):
                end = min([t + WINDOW, *times[u + 1 : u + 2]])
                self.assertEqual(
                    cell.effectivity_UxP[u, p], scores_S[t + 1 : end + 1].max() - scores_S[t]
                )
            self.assertTrue(np.isnan(cell.effectivity_UxP[len(times) :, p]).all())
            at = times[-1] + 1 + scores_S[times[-1] + 1 : times[-1] + WINDOW + 1].argmax()
            later_T = scores_S[at : at + len(cell.offsets_T)] - scores_S[times[0]]
            np.testing.assert_allclose(cell.gain_TxP[:, p], later_T)
            lag = self.study.lag
            for u, t in enumerate(times):
                at = min([t + lag, *times[u + 1 : u + 2]])
                self.assertEqual(cell.effectivity_at_lag_UxP[u, p], scores_S[at] - scores_S[t])
            start = times[-1] + lag
            later_T = scores_S[start : start + len(cell.offsets_T)] - scores_S[times[0]]
            np.testing.assert_allclose(cell.gain_at_lag_TxP[:, p], later_T)

    def test_the_lag_is_where_injected_less_control_stands_highest(self):
        scores, injected = self.table.loglik_SxP, self.table.labels["arm"] == "rare"
        above = []
        for lag in range(1, WINDOW + 1):
            found = []
            for fact, times in TIMES.items():
                mine_S = scores[:, injected & (self.table.labels["fact"] == fact)].mean(axis=1)
                less_S = mine_S - scores[:, ~injected].mean(axis=1)
                for t, end in zip(times, [*times[1:], STEPS], strict=True):
                    if t + lag <= end:
                        found.append(less_S[t + lag] - less_S[t])
            above.append(np.mean(found))
        self.assertEqual(self.study.lag, 1 + int(np.argmax(above)))

    def test_the_control_borrows_the_times_in_turn(self):
        control = self.study.cell("control", "memorization", "rare")
        for p, fact in enumerate(("a", "b")):
            scores_S = self.table.loglik_SxP[:, 6 + p]
            expected = measures.change(scores_S[:, None], self.table.steps_S, TIMES[fact][0])
            np.testing.assert_array_equal(control.change_SxP[:, p], expected[:, 0])

    def test_an_arm_without_times_is_refused(self):
        with self.assertRaisesRegex(UserError, "encounter steps of arm 'rare'"):
            estimates.open_study(_log().drop_vars("encounters"), {}, WINDOW, 0, 20)

    def test_the_label_goes_before_the_schedule(self):
        times = cells.times_of(self.table, "rare", (1, 2))
        self.assertEqual(times, TIMES)


class BadLogTest(parameterized.TestCase):
    """What is wrong with a log made by hand is said, with what to do."""

    @parameterized.named_parameters(
        ("no_dataset", lambda log: log["score"], "as an xarray Dataset, got a DataArray"),
        ("no_score", lambda log: log.rename(score="scores"), "variable 'score'.*got scores"),
        ("dimension", lambda log: log.rename(step="time"), "over step, probe, measure, got time"),
        ("no_steps", lambda log: log.drop_vars("step"), "coordinate 'step' along 'step'"),
        ("no_tokens", lambda log: log.drop_vars("tokens"), "coordinate 'tokens' along 'step'"),
        ("no_label", lambda log: log.drop_vars("fact"), "label 'fact' on every probe"),
        (
            "label_of_steps",
            lambda log: log.assign_coords(arm=("step", ["rare"] * (STEPS + 1))),
            "label 'arm' along 'probe'.*got it along step",
        ),
        *(
            (measure, lambda log, measure=measure: log.drop_sel(measure=measure), f"'{measure}'")
            for measure in ("logprob_mean", "greedy_match", "rank_first")
        ),
        (
            "a_measure_twice",
            lambda log: log.assign_coords(measure=["logprob_mean", "logprob_mean", "rank_first"]),
            "measure 'logprob_mean' once",
        ),
        (
            "a_step_twice",
            lambda log: log.isel(step=[0, *range(7), *range(5, STEPS + 1)]),
            "every step once in the probe log, got step 0 2 times; keep one row",
        ),
        (
            "steps_not_in_order",
            lambda log: log.isel(step=[*range(5), 6, 5, *range(7, STEPS + 1)]),
            r"ascending order, got 5 after 6; sort it with log.sortby",
        ),
        (
            "steps_between_updates",
            lambda log: log.assign_coords(step=np.arange(STEPS + 1) / 2),
            "whole numbers of updates.*got 0.0, 0.5",
        ),
        (
            "a_fact_in_two_arms",
            lambda log: log.assign_coords(fact=("probe", ["a", *"bc", *"abc", *"axyy"])),
            "'a' in 'rare' and 'control'; give facts of different arms different names",
        ),
        (
            "encounters_that_differ",
            lambda log: _with_encounters(log, ["3 10", *log["encounters"].values[1:]]),
            "same encounters at all probes of fact 'a', got '3 10' and '3 10 12'",
        ),
        *(
            (
                f"encounters_{i}",
                lambda log, bad=bad: _with_encounters(log, [bad] * 6 + [""] * 4),
                f"ascending updates.*got '{bad}' of fact 'a'",
            )
            for i, bad in enumerate(("often", "10 3", "3 3", "-1 5", "1.5"))
        ),
    )
    def test_refused(self, change, message):
        with self.assertRaisesRegex(UserError, message):
            cells.read_table(change(_log()))

    def test_a_fact_without_a_probe_at_a_depth(self):
        study = estimates.open_study(_log().isel(probe=[0, 1, 2, 3, 6, 8]), {}, WINDOW, 0, 20)
        self.assertLen(study.cell("rare", "memorization").fact_P, 3)
        with self.assertRaisesRegex(UserError, "'semantic' for every fact.*for 'b' and 1 more"):
            study.cell("rare", "semantic")

    def test_dimensions_in_another_order(self):
        table, turned = (
            cells.read_table(log) for log in (_log(), _log().transpose("measure", "probe", "step"))
        )
        np.testing.assert_array_equal(turned.loglik_SxP, table.loglik_SxP)
        np.testing.assert_array_equal(turned.rank_P, table.rank_P)


def _with_encounters(log, values):
    return log.assign_coords(encounters=("probe", values))


class MatchedSetsTest(absltest.TestCase):
    def test_what_a_set_shares_cancels_in_every_replicate(self):
        rng = np.random.default_rng(1)
        sets = [str(k) for k in range(12)]
        drift = rng.normal(size=(12, STEPS + 1)).cumsum(axis=1)  # of the answer: shared by the set
        log = make_log(
            {"duplication": (5,), "control": ()},
            STEPS,
            facts_per_arm=12,
            probes_per_depth=1,
            gains={"duplication": (1.0, 0.0)},
        )
        order = [int(fact.split("-")[1]) for fact in log["fact"].values]
        score = log["score"].values.copy()
        score[:, :, 0] += drift[order].T
        log["score"] = (log["score"].dims, score)
        plain = estimates.open_study(log, {"duplication": (5,)}, WINDOW, 0, 200)
        log = log.assign_coords(set=("probe", [sets[k] for k in order]))
        study = estimates.open_study(log, {"duplication": (5,)}, WINDOW, 0, 200)

        def width(study):
            arms = [study.cell(arm, "memorization", "duplication") for arm in study.arms]
            gain = [estimates.gain_at_last_maximum(study, cell) for cell in arms]
            value, low, high = (gain[0] - gain[1]).interval()
            self.assertAlmostEqual(float(value[0]), 1.0, places=4)
            return float(high[0] - low[0])

        self.assertLess(width(study), 1e-4)
        self.assertGreater(width(plain), 1.0)


if __name__ == "__main__":
    absltest.main()
