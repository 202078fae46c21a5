"""The published procedure against its definitions written out in plain loops, and its numbers."""

import json
import math
import statistics

import numpy as np
import xarray as xr
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import paper
from llm_dynamics.probe.scoring import MEASURES

EVERY = tuple(range(0, 1000, 100))


def log_of(loglik_SxP, labels, tokens_per_step=4_194_304, steps=None):
    """A log of given scores; labels are (fact, arm, depth) of each probe."""
    steps = np.arange(len(loglik_SxP)) if steps is None else np.asarray(steps)
    score = np.full((*loglik_SxP.shape, len(MEASURES)), np.nan)
    score[..., MEASURES.index("logprob_mean")] = loglik_SxP
    fact, arm, depth = (("probe", np.array(c)) for c in zip(*labels, strict=True))
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), score)},
        coords={
            "step": steps,
            "tokens": ("step", steps * tokens_per_step),
            "probe": [f"{'/'.join(label)}/{i}" for i, label in enumerate(labels)],
            "measure": list(MEASURES),
            "fact": fact,
            "arm": arm,
            "depth": depth,
            "attribute": ("probe", np.array([str(i) for i in range(len(labels))])),
        },
    )


def one_cell(loglik_SxP, encounters, window, **settings):
    labels = [(f"fact-{p}", "duplication", "memorization") for p in range(loglik_SxP.shape[1])]
    (cell,) = paper.analyse(
        log_of(np.asarray(loglik_SxP, float), labels),
        {"duplication": encounters},
        window,
        **settings,
    )
    return cell


# ---- the definitions in plain loops ---------------------------------------------------------


def quantile(values, q):
    values = sorted(values)
    at = q * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def inliers(values, factor):
    if factor is None:
        return list(values)
    q1, q3 = quantile(values, 0.25), quantile(values, 0.75)
    reach = factor * (q3 - q1)
    return [v for v in values if q1 - reach <= v <= q3 + reach]


def maximum_step(scores, encounter, window):
    best = encounter + 1
    for t in range(encounter + 1, encounter + window + 1):
        if scores[t] > scores[best]:
            best = t
    return best


def oracle(probes, encounters, window, factor, end):
    """All numbers of one cell; probes are lists of scores by step, `end` the last t."""
    gains = []
    each = [[] for _ in encounters]
    failures = [0] * len(encounters)
    for scores in probes:
        for u, start in enumerate(encounters):
            top = scores[maximum_step(scores, start, window)]
            gains.append(top - scores[start])
            if top < scores[encounters[0]]:
                failures[u] += 1
            else:
                each[u].append(top - scores[start])
    kept = inliers(gains, factor)
    curve, counts = [], []
    for t in range(end + 1):
        ratios = []
        for scores in probes:
            top = maximum_step(scores, encounters[-1], window)
            base = scores[encounters[0]]
            if scores[top] != base:
                ratios.append((scores[top + t] - base) / (scores[top] - base))
        ratios = inliers(ratios, factor)
        curve.append(statistics.fmean(ratios))
        counts.append(len(ratios))
    x = [math.log10(t) for t in range(1, end + 1)]
    y = curve[1:]
    line = statistics.linear_regression(x, y)
    rest = sum((b - line.intercept - line.slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - statistics.fmean(y)) ** 2 for b in y)
    spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
    return {
        "effectivity": statistics.fmean(kept),
        "kept": len(kept),
        "each": [statistics.fmean(inliers(v, factor)) for v in each],
        "each_kept": [len(inliers(v, factor)) for v in each],
        "failures": failures,
        "curve": curve,
        "counts": counts,
        "line": [
            -line.slope,
            line.intercept,
            -line.intercept / line.slope,
            1 - rest / total,
            math.sqrt(rest / (len(x) - 2) / spread),
        ],
    }


class DefinitionsTest(parameterized.TestCase):
    @parameterized.parameters(1.5, 2.0, None)
    def test_equals_the_definitions_in_plain_loops(self, factor):
        rng = np.random.default_rng(3)
        steps, window = 160, 12
        schedule = {"duplication": (5, 30, 55), "once": (70,), "control": ()}
        labels = [
            (f"{arm}-{k}", arm, depth)
            for arm in schedule
            for k in range(7)
            for depth in ("memorization", "compositional")
            for _ in range(2)
        ]
        # A walk with heavy tails, rounded so that maxima tie.
        walk_SxP = rng.standard_t(2, (steps, len(labels))).cumsum(0) * 0.1
        loglik_SxP = np.round(walk_SxP - 5, 2)
        log = log_of(loglik_SxP, labels)
        found = paper.analyse(log, schedule, window, factor)
        self.assertEqual(
            [(c.arm, c.depth) for c in found],
            [(a, d) for a in ("duplication", "once") for d in ("memorization", "compositional")],
        )
        end = steps - 1 - (70 + window)  # of the arm that is met last, for every arm
        dropped = 0
        for cell in found:
            columns = [p for p, (_, *rest) in enumerate(labels) if rest == [cell.arm, cell.depth]]
            probes = [loglik_SxP[:, p].tolist() for p in columns]
            want = oracle(probes, schedule[cell.arm], window, factor, end)
            self.assertAlmostEqual(cell.effectivity, want["effectivity"], places=10)
            self.assertEqual(cell.effectivity_kept, want["kept"])
            self.assertEqual(cell.effectivity_total, 14 * len(schedule[cell.arm]))
            self.assertEqual((cell.facts, cell.probes), (7, 14))
            gains = cell.per_encounter
            np.testing.assert_allclose([g.mean for g in gains], want["each"], atol=1e-10)
            self.assertEqual([g.kept for g in gains], want["each_kept"])
            self.assertEqual([g.failures for g in gains], want["failures"])
            self.assertEqual([g.kept + g.outliers + g.failures for g in gains], [14] * len(gains))
            np.testing.assert_allclose(cell.curve_T, want["curve"], rtol=1e-9)
            np.testing.assert_array_equal(cell.kept_T, want["counts"])
            fit = cell.decay
            np.testing.assert_allclose(
                [fit.a, fit.intercept, fit.x_intercept, fit.r2, fit.stderr],
                want["line"],
                rtol=1e-8,
            )
            self.assertEqual(fit.n, end)
            dropped += cell.effectivity_total - cell.effectivity_kept
        self.assertEqual(dropped > 0, factor is not None)
        json.dumps([paper.as_record(cell) for cell in found], allow_nan=False)

    def test_window_is_open_at_the_encounter_and_closed_fifty_steps_later(self):
        loglik_SxP = np.full((200, 3), -5.0)
        loglik_SxP[0] = -6.0
        loglik_SxP[50, 0] = -1.0  # the last step of the window
        loglik_SxP[51, 1] = -1.0  # beyond
        loglik_SxP[[20, 30], 2] = -2.0  # a tie: the first counts
        loglik_SxP[21:30, 2] = -4.0
        cell = one_cell(loglik_SxP, (0,), 50, outliers=None)
        self.assertAlmostEqual(cell.effectivity, (5 + 1 + 4) / 3)
        # t = 1 is step 51 for the first probe, 2 for the second, 21 for the third.
        self.assertAlmostEqual(cell.curve_T[1], (1 / 5 + 1 + 2 / 4) / 3)

    def test_one_at_the_maximum_and_published_length(self):
        rng = np.random.default_rng(0)
        cell = one_cell(rng.standard_normal((2500, 4)) - 5, EVERY, 50)
        self.assertEqual(cell.curve_T[0], 1.0)  # exactly
        self.assertEqual(cell.offsets_T.tolist(), list(range(2500 - 950)))
        self.assertEqual(cell.decay.n, 2500 - 950 - 1)

    def test_known_line_in_steps_and_tokens(self):
        # Gain 4 at the end of the window, then R = 0.25 (4.40 - log10 t); that is 1.1 at t = 1.
        ratio_T = 0.25 * (4.40 - np.log10(np.arange(1, 1551)))
        loglik_S = np.concatenate([np.full(50, -8.0), [-4.0], -8.0 + 4 * ratio_T])
        cell = one_cell(loglik_S[:, None].repeat(5, 1), (0,), 50)
        self.assertAlmostEqual(cell.decay.a, 0.25, places=12)
        self.assertAlmostEqual(cell.x_intercept_steps, 4.40, places=11)
        self.assertAlmostEqual(cell.x_intercept_tokens, 11.0227, places=4)
        self.assertAlmostEqual(cell.decay.r2, 1.0, places=12)
        self.assertEqual(cell.decay.n, 1550)
        self.assertTrue(cell.decay.extrapolated)

    def test_sum_instead_of_mean_scales_effectivity_alone(self):
        rng = np.random.default_rng(1)
        mean_SxP = rng.standard_normal((300, 6)).cumsum(0) * 0.1 - 6
        one = one_cell(mean_SxP, (0, 100), 50)
        whole = one_cell(4 * mean_SxP, (0, 100), 50)
        self.assertAlmostEqual(whole.effectivity, 4 * one.effectivity)
        np.testing.assert_allclose(whole.curve_T, one.curve_T)
        self.assertAlmostEqual(whole.decay.a, one.decay.a)

    def test_factor_decides_what_is_kept(self):
        # Gains with quartiles 2 and 4: 7.5 is beyond 1.5 ranges, not beyond 2; 9 beyond both.
        gains = np.array([2.0, 2, 3, 4, 4, 7.5, 2, 3, 4, 9])
        loglik_SxP = np.full((30, 10), -20.0)
        loglik_SxP[3] += gains
        kept = [one_cell(loglik_SxP, (0,), 5, outliers=f).effectivity_kept for f in paper.OUTLIERS]
        self.assertEqual(kept, [8, 9, 10])

    def test_denominators_that_are_zero_or_negative(self):
        loglik_SxP = np.full((30, 4), -5.0)
        loglik_SxP[3:, 0] = -1.0  # learned, kept
        loglik_SxP[1:, 1] = -5.5  # its maximum is below its start: negative, R = 1 throughout
        loglik_SxP[3:, 2] = -7.0  # no gain at its maximum: no ratio
        loglik_SxP[3, 3], loglik_SxP[4:, 3] = -1.0, -5.0  # learned, lost
        cell = one_cell(loglik_SxP, (0,), 5, outliers=None)
        self.assertEqual((cell.without_ratio, cell.negative), (1, 1))
        self.assertEqual(set(cell.kept_T.tolist()), {3})
        np.testing.assert_allclose(cell.curve_T[1:], (1 + 1 + 0) / 3)
        self.assertEqual(cell.effectivity_total, 4)
        (gain,) = cell.per_encounter
        self.assertEqual((gain.failures, gain.kept), (1, 3))
        self.assertAlmostEqual(gain.mean, (4 + 0 + 4) / 3)

    def test_no_ratio_at_all_is_said(self):
        cell = one_cell(np.full((30, 2), -5.0), (0,), 5)
        self.assertIsNone(cell.curve_T)
        self.assertIsNone(cell.decay)
        self.assertIsNone(cell.x_intercept_tokens)
        self.assertEqual((cell.without_ratio, cell.effectivity), (2, 0.0))
        self.assertIn("exactly 0", cell.note)
        json.dumps(paper.as_record(cell), allow_nan=False)

    def test_every_probe_of_an_encounter_fails(self):
        loglik_SxP = np.linspace(-1, -9, 40)[:, None].repeat(2, 1)
        (gain,) = one_cell(loglik_SxP, (0,), 5).per_encounter
        self.assertEqual((gain.mean, gain.kept, gain.failures), (None, 0, 2))

    def test_a_log_probability_of_exactly_zero_counts(self):
        loglik_SxP = np.full((30, 2), -3.0)
        loglik_SxP[4:, :] = 0.0  # certain from then on
        cell = one_cell(loglik_SxP, (0,), 5)
        self.assertEqual((cell.effectivity, cell.effectivity_kept), (3.0, 2))
        self.assertEqual(set(cell.kept_T.tolist()), {2})
        np.testing.assert_array_equal(cell.curve_T, 1.0)

    def test_facts_never_injected_have_effectivity_on_a_schedule(self):
        rng = np.random.default_rng(5)
        labels = [(f"{arm}-{k}", arm, "semantic") for arm in ("once", "control") for k in range(30)]
        log = log_of(rng.standard_normal((300, 60)) * 0.1 - 5, labels)
        skipped = paper.analyse(log, {"once": (0,), "control": ()})
        self.assertEqual([cell.arm for cell in skipped], ["once"])
        _, control = paper.analyse(log, {"once": (0,), "control": (0, 100)})
        self.assertGreater(control.effectivity, 0.15)  # from the maximum of noise alone


class RefusedTest(parameterized.TestCase):
    labels = (("f0", "duplication", "memorization"), ("f1", "duplication", "memorization"))

    def log(self, **settings):
        return log_of(np.random.default_rng(0).normal(-5, 1, (300, 2)), self.labels, **settings)

    @parameterized.parameters(
        (dict(schedule={"once": (0,)}), "'duplication' is in one of them only"),
        (dict(schedule={"duplication": (0,), "once": (0,)}), "'once' is in one of them only"),
        (dict(schedule={"duplication": ()}), "at least one arm with encounters"),
        (dict(schedule={"duplication": (100, 0)}), "ascending updates"),
        (dict(schedule={"duplication": (0, 0)}), "ascending updates"),
        (dict(schedule={"duplication": (-5, 100)}), "ascending updates"),
        (dict(schedule={"duplication": (0, 100, 290)}), "at or after step 340.*got 299"),
        (dict(schedule={"duplication": (0, 30)}), "at most 30 steps.*wrong encounter"),
        (dict(window=0), "at least 1 step"),
        (dict(outliers=3.0), "outliers 1.5.*got 3.0"),
    )
    def test_settings(self, changes, message):
        settings = {"schedule": {"duplication": (0, 100)}} | changes
        with self.assertRaisesRegex(UserError, message):
            paper.analyse(self.log(), **settings)

    @parameterized.parameters((0, "before an encounter"), (20, "maximum"), (280, "curve"))
    def test_a_step_that_is_missing(self, step, why):
        with self.assertRaisesRegex(UserError, rf"{why}.*\({step}\)"):
            paper.analyse(
                self.log().drop_sel(step=step), {"duplication": (0, 100)}, tokens_per_step=1
            )

    def test_a_probe_without_a_score(self):
        log = self.log()
        log["score"].loc[{"step": 7, "probe": log["probe"].values[1]}] = np.nan
        with self.assertRaisesRegex(UserError, "finite score.*step 7"):
            paper.analyse(log, {"duplication": (0, 100)})
