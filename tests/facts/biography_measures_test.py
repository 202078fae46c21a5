import math

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import biography_measures as measures
from llm_dynamics.facts import biography_results as results
from llm_dynamics.facts.biographies import ATTRIBUTES, GROUPS, WORDINGS

STEPS = np.arange(0, 1001, 10)
BASE = math.log(8)


def curve(steps_S, learned=100, recall=400, end=800, floor=0.2, start=6.0):
    """Falls to the baseline, rests, falls to `floor`; straight between."""
    return np.interp(steps_S, [0, learned, recall, end], [start, BASE, BASE, floor])


def make_log(seen_S, held_S, unseen_S, people=20, noise=0.0, seed=0, baseline=BASE, zipf=False):
    """A log of a study whose groups have these mean losses."""
    rng = np.random.default_rng(seed)
    columns, labels = [], []
    curves = {
        ("seen", "training"): seen_S,
        ("seen", "held_out"): held_S,
        ("unseen", "training"): unseen_S,
        ("unseen", "held_out"): unseen_S,
    }
    for g, group in enumerate(GROUPS):
        for k in range(people):
            for wording in WORDINGS:
                for attribute in ATTRIBUTES:
                    own = curves[group, wording] + noise * rng.standard_normal()
                    columns.append(-own)
                    documents = 0 if g else 1 + (people - k if zipf else 0)
                    style = "fixed" if group == "seen" and k % 4 == 0 else "rewritten"
                    person = f"{g * people + k:05d}"
                    labels.append((person, group, wording, attribute, style, str(documents)))
    score_SxPx2 = np.stack([np.stack(columns, 1)] * 2, 2)
    score_SxPx2[..., 1] = score_SxPx2[..., 0] > -0.5
    order = rng.permutation(len(labels))  # the log's order must not matter
    names = ("person", "group", "wording", "attribute", "style", "documents")
    coords = {
        name: ("probe", np.array([labels[i][j] for i in order])) for j, name in enumerate(names)
    }
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), score_SxPx2[:, order].astype(np.float32))},
        coords={
            "step": STEPS,
            "measure": ["logprob_sum", "greedy_match"],
            "baseline": ("probe", np.full(len(order), repr(baseline))),
            "num_target_tokens": ("probe", np.full(len(order), 2)),
            **coords,
        },
    )


def analysed(*args, people=None, **kwargs):
    log = make_log(*args, **kwargs)
    found = results.analyse(
        log,
        parameters=1000,
        people=people or 20,
        exposures_per_step=0.1,
        resamples=200,
    )
    return found, {row["name"]: row for row in found.rows}


class PhasesTest(parameterized.TestCase):
    @parameterized.parameters(0.02, 0.05, 0.1)
    def test_a_known_plateau_is_found_to_the_step(self, tolerance):
        loss_S = curve(STEPS)
        found = measures.phases(loss_S[None], np.array([BASE]), STEPS, tolerance)
        # The exact crossings of the straight pieces with the edges of the band.
        learned = 100 - 100 * tolerance * BASE / (6 - BASE)
        recall = 400 + 400 * tolerance * BASE / (BASE - 0.2)
        self.assertAlmostEqual(found.learned_R[0], learned, places=6)
        self.assertAlmostEqual(found.recall_R[0], recall, places=6)
        self.assertAlmostEqual(found.plateau_R[0], recall - learned, places=6)
        across = 2 * tolerance * BASE / (recall - learned)
        self.assertAlmostEqual(found.slowdown_R[0], (BASE - 0.2) / 400 / across, places=6)

    def test_a_straight_fall_has_a_slowdown_of_one(self):
        loss_S = np.interp(STEPS, [0, 1000], [6, 0])
        found = measures.phases(loss_S[None], np.array([BASE]), STEPS)
        self.assertAlmostEqual(found.slowdown_R[0], 1.0, places=6)

    def test_what_is_not_reached_is_infinite(self):
        above, rests = np.full(len(STEPS), 6.0), curve(STEPS, recall=5000, end=6000)
        dips = curve(STEPS, recall=5000, end=6000)
        dips[50] = 0.1  # below once, but not for good
        found = measures.phases(np.stack([above, rests, dips]), np.full(3, BASE), STEPS)
        self.assertTrue(np.isinf(found.learned_R[0]) and np.isinf(found.plateau_R[0]))
        self.assertTrue(np.isfinite(found.learned_R[1:]).all())
        self.assertTrue(np.isinf(found.recall_R).all() and np.isinf(found.plateau_R).all())
        self.assertTrue(np.isnan(found.slowdown_R).all())


class BitsTest(absltest.TestCase):
    def test_a_perfect_and_an_ignorant_model(self):
        baseline_KxA = np.full((5, 6), math.log(16))
        np.testing.assert_allclose(measures.bits(np.zeros((5, 6)), baseline_KxA), np.full(5, 24))
        np.testing.assert_array_equal(measures.bits(baseline_KxA, baseline_KxA), np.zeros(5))
        np.testing.assert_array_equal(measures.bits(baseline_KxA + 1, baseline_KxA), np.zeros(5))
        weights_RxK = np.ones((1, 5))
        self.assertEqual(measures.mean_bits(baseline_KxA, baseline_KxA, weights_RxK)[0], 0)
        self.assertAlmostEqual(
            measures.mean_bits(np.zeros((5, 6)), baseline_KxA, weights_RxK)[0], 120
        )

    def test_noise_counts_in_the_sum_but_not_in_that_of_means(self):
        baseline_KxA = np.full((2, 1), 1.0)
        loss_KxA = np.array([[0.0], [2.0]])
        self.assertAlmostEqual(measures.bits(loss_KxA, baseline_KxA).sum(), 1 / math.log(2))
        self.assertEqual(measures.mean_bits(loss_KxA, baseline_KxA, np.ones((1, 2)))[0], 0)


class ResultsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        held_S = curve(STEPS, recall=500, end=900, floor=0.7)
        unseen_S = np.interp(STEPS, [0, 100, 400, 1000], [6, BASE, BASE, BASE + 1.5])
        cls.found, cls.rows = analysed(curve(STEPS), held_S, unseen_S, noise=0.1, zipf=True)

    def _near(self, name, wanted, within):
        row = self.rows[name]
        self.assertLess(abs(row["value"] - wanted), within, name)
        self.assertLess(row["low"], row["value"], name)
        self.assertGreater(row["high"], row["value"], name)

    def test_every_number_is_near_what_was_put_in_and_has_an_interval(self):
        self._near("seen/training/statistics_learned", 97, 3)
        self._near("seen/training/recall_begins", 422, 15)
        self._near("seen/training/plateau", 325, 15)
        self._near("seen/training/plateau_exposures", 32.5, 1.5)
        self._near("seen/training/loss", 0.2, 0.05)
        self._near("seen/gap", 0.5, 0.05)
        self._near("unseen/training/excess", 1.5, 0.05)
        self._near("unseen/training/rise", 1.5, 0.05)
        most = 20 * 6 * BASE / math.log(2)
        self._near("seen/training/bits", most * (BASE - 0.2) / BASE, 10)
        self._near("seen/training/bits_per_parameter", (BASE - 0.2) / BASE * most / 1000, 0.01)
        self.assertAlmostEqual(self.found.most_bits, most)
        self.assertEqual(self.rows["unseen/training/bits"]["value"], 0)
        self.assertEqual(self.rows["seen/baseline"]["value"], BASE)
        self.assertAlmostEqual(self.rows["seen/baseline_per_token"]["value"], BASE / 2)
        self.assertGreater(self.rows["seen/training/plateau_slowdown"]["low"], 3)

    def test_people_are_split_by_text_and_exposure(self):
        self.assertEqual(self.rows["seen/training/excess/fixed"]["n"], 5)
        self.assertEqual(self.rows["seen/training/excess/rewritten"]["n"], 15)
        thirds = [self.rows[f"seen/training/excess/{n}"]["n"] for n in ("most_met", "least_met")]
        self.assertEqual(thirds, [7, 6])

    def test_probed_people_stand_for_all(self):
        flat = np.full(len(STEPS), BASE / 2)
        _, rows = analysed(flat, flat, flat, people=60)
        self.assertAlmostEqual(
            rows["seen/training/bits"]["value"], 60 * 6 * BASE / 2 / math.log(2), places=3
        )

    def test_what_is_not_reached_is_none_with_its_reason(self):
        flat = np.full(len(STEPS), BASE)
        _, rows = analysed(flat, flat, flat)
        for name in ("recall_begins", "plateau", "plateau_slowdown"):
            row = rows[f"seen/training/{name}"]
            self.assertEqual((row["value"], row["low"], row["high"]), (None, None, None))
            self.assertTrue(row["note"])
        self.assertEqual(rows["seen/training/bits_of_means"]["value"], 0)

    def test_a_log_with_gaps_or_of_another_study_is_refused(self):
        flat = np.full(len(STEPS), BASE)
        log = make_log(flat, flat, flat)
        gap = log.copy(deep=True)
        gap["score"][3] = np.nan
        with self.assertRaisesRegex(UserError, "lacks scores of step 30"):
            measures.read_scores(gap)
        with self.assertRaisesRegex(UserError, "of another study"):
            measures.read_scores(log.isel(probe=slice(1, None)))


if __name__ == "__main__":
    absltest.main()
